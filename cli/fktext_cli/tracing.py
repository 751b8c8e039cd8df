"""Write which particle descends from which, as a page to look at or as data (`--trace`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import UsageError
from fktext_cli import output

if TYPE_CHECKING:  # this imports torch
    from fktext.population import Population

MOST_PICTURES = 4_000_000  # bytes of thumbnails on the way; the populations that come after have none
_SUFFIXES = (".html", ".json")


def check(path: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse what cannot or should not be written, before anything is computed."""
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"--trace {str(path)!r}: expected a name that ends in {' or '.join(_SUFFIXES)}")
    if resume:
        raise UsageError("--trace does not go with --resume: the lineage of populations that are already written is not known")
    output.check_file("--trace", path, "" if overwrite else "--overwrite replaces it")


@dataclass
class Trace:
    """Keep populations as they come and write them at the end, also when the run is stopped.

    Attributes:
        path: the file, whose suffix says what to write; None keeps and writes nothing.
        run: what all populations have in common, see `output.rows`.
        which: which particle is returned; of "all" the best is marked.
    """

    path: Path | None
    run: Mapping[str, Any]
    which: output.Return
    _kept: list[dict[str, Any]] = field(default_factory=list, init=False)
    _pictures: int = field(default=0, init=False)

    def add(self, population: Population) -> None:
        """Keep a population; of a dead one no particle is marked."""
        if self.path is not None:
            from fktext_evals import trace

            chosen = output.chosen(population, "draw" if self.which == "draw" else "best")
            kept = trace.population(population, chosen[0] if chosen else None, thumbnails=self._pictures < MOST_PICTURES)
            self._pictures += sum(len(image) for step in kept["lineage"].get("images", ()) for image in step)
            self._kept.append(kept)

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.write()

    def write(self) -> None:
        """Write what was kept, if anything was."""
        if self.path is None or not self._kept:
            return
        from fktext_evals import page, trace

        whole = trace.trace(self.run, self._kept)
        html = self.path.suffix == ".html"
        page.write(self.path, page.trace_html(whole) if html else json.dumps(whole, allow_nan=False) + "\n")
