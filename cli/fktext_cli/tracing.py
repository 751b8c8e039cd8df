"""Write what happened to every particle (`--trace`): as a log of events, line by line, or at the end as a page or as data."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from fktext.errors import UsageError
from fktext.trace import Event, Record, Run, Start, Weighing, to_line
from fktext_cli import output

if TYPE_CHECKING:  # this imports torch
    from fktext.population import Population

MOST_PICTURES = 4_000_000  # bytes of thumbnails on the way; the populations that come after have none
_SUFFIXES = (".html", ".json", ".jsonl")


def check(path: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse what cannot or should not be written, before anything is computed."""
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"--trace {str(path)!r}: expected a name that ends in {', '.join(_SUFFIXES[:-1])} or {_SUFFIXES[-1]}")
    if resume:
        raise UsageError("--trace does not go with --resume: the lineage of populations that are already written is not known")
    output.check_file("--trace", path, "" if overwrite else "--overwrite replaces it")


def write(path: Path, records: Iterable[Record]) -> None:
    """Write the populations of a log that have ended: as data where the name ends in .json, else as a page."""
    from fktext_evals.reporting import page, trace

    data = path.suffix == ".json"
    whole = trace.trace(records, events=not data)
    page.write(path, json.dumps(whole, allow_nan=False) + "\n" if data else page.trace_html(whole))


@dataclass
class Trace:
    """Write events as they happen, or keep populations and write them at the end, also when the run is stopped.

    Attributes:
        path: the file, whose suffix says what to write; None keeps and writes nothing.
        run: what all populations have in common, see `output.rows`.
        which: which particle is returned; of "all" the best is marked.
        populations: how many there will be.
    """

    path: Path | None
    run: Mapping[str, Any]
    which: output.Return
    populations: int = 1
    _kept: list[Event] = field(default_factory=list, init=False)
    _pictures: dict[tuple[int, int], int] = field(default_factory=dict, init=False)
    _file: TextIO | None = field(default=None, init=False)

    @property
    def _log(self) -> bool:
        return self.path is not None and self.path.suffix == ".jsonl"

    def see(self, events: Sequence[Event]) -> None:
        """Write what has just happened, if it is written as it happens."""
        if self._log:
            self._write(events)

    def add(self, population: Population) -> None:
        """Write or keep a population; of a dead one no particle is marked."""
        if self.path is None:
            return
        chosen = output.chosen(population, "draw" if self.which == "draw" else "best")
        end = population.end(chosen[0] if chosen else None)
        if self._log:
            self._write([end])
        else:
            self._kept += [*map(self._bounded, population.events), end]

    def __enter__(self) -> Trace:
        return self

    def __exit__(self, *_: object) -> None:
        self.write()

    def write(self) -> None:
        """Write what was kept, if anything was."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written has been told of
                self._file.close()
        if self.path is not None and self._kept:
            write(self.path, [Run(self.run, self.populations), *self._kept])

    def _write(self, events: Sequence[Event]) -> None:
        """Write lines, and let others see them at once."""
        assert self.path is not None
        try:
            if self._file is None:
                self._file = self.path.open("w", encoding="ascii")
                self._file.write(to_line(Run(self.run, self.populations)))
            self._file.writelines(to_line(self._bounded(event)) for event in events)
            self._file.flush()
        except OSError as error:
            raise output.OutputError(f"cannot write {str(self.path)!r}: {error.strerror}") from error

    def _bounded(self, event: Event) -> Event:
        """Leave pictures out of populations that begin after there are enough."""
        if isinstance(event, Start) and event.modality == "image":
            self._pictures[event.population] = 0
        if not isinstance(event, Weighing) or event.population not in self._pictures:
            return event
        if sum(size for who, size in self._pictures.items() if who < event.population) >= MOST_PICTURES:
            return replace(event, guesses=())
        self._pictures[event.population] += sum(map(len, event.guesses))
        return event
