"""Write what `fktext image generate` leaves in its folder: images, sheets, rows and lineages."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fktext.errors import UsageError
from fktext_cli import output, pictures, tracing
from fktext_cli.beside import worth
from fktext_cli.options import Which, out_option

if TYPE_CHECKING:  # these import torch
    from fktext.population import Population
    from fktext.rewards import Weighted
    from fktext.trace import Event

MOST_LARGER = 64
PATTERNS = ("sample-*-particle-*.png", "sample-*-population.png", "rows.jsonl", "trace.html", "trace.json")


@dataclass(frozen=True)
class Out:
    """Options of what is written, and where."""

    which: Which = "best"
    folder: Annotated[Path, out_option("--output", "-o", metavar="DIR", help="The folder to write to.")] = Path("images")
    overwrite: Annotated[bool, out_option("--overwrite", help="Replace what an earlier run left in --output.")] = False
    enlarge: Annotated[
        int, out_option(min=1, max=MOST_LARGER, metavar="N", help="Write each pixel as a square of N x N, for small images.")
    ] = 1
    trace: Annotated[
        Path | None,
        out_option(
            metavar="FILE",
            help="Write the lineage here, with pictures: .html to look at, .jsonl as a log while it happens, .json as data.",
            show_default="trace.html and trace.json in --output",
        ),
    ] = None

    def check(self) -> None:
        """Refuse what cannot or should not be written, before anything is computed."""
        named = f"--output {str(self.folder)!r}"
        there = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        if not there.is_dir():
            raise UsageError(f"{named}: {str(there)!r} is not a folder")
        if not os.access(there, os.W_OK):
            raise UsageError(f"{named}: {str(there)!r} cannot be written to")
        if left(self.folder) and not self.overwrite:
            raise UsageError(f"{named} has images of another run; --overwrite replaces them")
        if self.trace is not None:
            tracing.check(self.trace, overwrite=self.overwrite, resume=False)

    @property
    def traces(self) -> list[Path]:
        """Where lineages are written."""
        return [self.trace] if self.trace is not None else [self.folder / f"trace{suffix}" for suffix in (".html", ".json")]


class Files:
    """Write what a run leaves in its folder.

    Args:
        out: the folder, which is made when the first population comes, and of each population the images to keep.
        run: what all images have in common.
        terms: the rewards, as which sheets tell them.
        prompts: how many there are; with several, names of files say which it is.
        stdout: where the names of the images go.
    """

    def __init__(self, out: Out, run: dict[str, Any], terms: Sequence[Weighted], prompts: int, stdout: Any) -> None:
        self._out, self._run, self._terms, self._prompts, self._stdout = out, run, terms, prompts, stdout
        self._rows: list[str] = []
        self._unsteered: dict[tuple[int, int], pictures.Panel] = {}
        populations = prompts * run["settings"]["samples"]
        self._traces = [tracing.Trace(path, run, out.which, populations) for path in out.traces]

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows:
            output.write(self._out.folder / "rows.jsonl", "".join(self._rows).encode())
            for trace in self._traces:
                trace.write()

    def see(self, events: Sequence[Event]) -> None:
        """Write what has just happened to the particles."""
        for trace in self._traces:
            trace.see(events)

    def keep_unsteered(self, population: Population) -> None:
        """Keep what nothing steered, to be shown on the sheet of the population that is steered."""
        who = population.prompt_index, population.sample_index
        self._unsteered[who] = self._panel("unsteered", population, range(len(population.samples)), weights=False)

    def add(self, population: Population) -> None:
        """Write one population's images and its sheet."""
        from fktext.images.pictures import enlarged, png

        if not self._rows:
            self._prepare()
        name = f"sample-{population.sample_index:03d}"
        if self._prompts > 1:
            name = f"prompt-{population.prompt_index:03d}-{name}"
        output.write(self._out.folder / f"{name}-population.png", png(self._sheet(population), self._run))
        for row in output.rows(population, self._out.which, self._run):
            path = self._out.folder / f"{name}-particle-{row['particle']}.png"
            row = {"file": None if population.dead else path.name, **row}
            if not population.dead:
                image = enlarged(population.samples[row["particle"]].pixels, self._out.enlarge)
                output.write(path, png(image, row))
                print(path, file=self._stdout, flush=True)
            self._rows.append(json.dumps(row, allow_nan=False) + "\n")
        for trace in self._traces:
            trace.add(population)

    def _sheet(self, population: Population) -> Any:
        """Draw the population, the heaviest first, and on its left what is unsteered."""
        method = self._run["settings"]["method"]
        title = {"base": "unsteered", "best-of-n": "best-of-n"}.get(method, f"steered ({method})")
        heaviest = population.log_w.argsort(descending=True, stable=True).tolist()
        beside = self._unsteered.pop((population.prompt_index, population.sample_index), None)
        panel = self._panel(title, population, heaviest, weights=True)
        return pictures.sheet([panel] if beside is None else [beside, panel])

    def _panel(self, title: str, population: Population, order: Sequence[int], *, weights: bool) -> pictures.Panel:
        from fktext.images.pictures import picture

        shares, returned = population.log_w.exp().tolist(), output.chosen(population, self._out.which) if weights else []
        tiles = [
            pictures.Tile(
                picture(population.samples[index].pixels),
                self._label(float(population.rewards[index])),
                shares[index] if weights else None,
                index in returned,
            )
            for index in order
        ]
        return pictures.Panel(title, tiles)

    def _label(self, reward: float) -> str:
        told = worth(self._terms, reward) if self._terms else ""
        return told if told.startswith("p = ") or not told else f"reward {told}"

    def _prepare(self) -> None:
        """Make the folder, and delete what an earlier run left in it, so that all files are of one run."""
        folder = self._out.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in left(folder):
                old.unlink()
        except OSError as error:
            raise output.OutputError(f"cannot make room in the folder {str(folder)!r}: {error.strerror}") from error


def left(folder: Path) -> list[Path]:
    """Find the files of a run."""
    patterns = [*PATTERNS, *(f"prompt-*-{pattern}" for pattern in PATTERNS if pattern.startswith("sample"))]
    return [file for pattern in patterns for file in folder.glob(pattern)]
