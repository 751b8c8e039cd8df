"""Cuts a suite into cells: what one worker makes at a time.

A cell is one batch of one process: populations of one method and seed that are neighbours, as many as fit the batch size. Its
place depends on the suite and the batch size alone, not on who makes it, so a cell's rows are the same whoever does. Texts that
are there already are left out of it.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from itertools import product

from fktext.settings import STEERING
from fktext_evals.running.results import Key
from fktext_evals.suites.suite import Method, Suite


@dataclass(frozen=True)
class Cell:
    """Names the populations of a method and seed that are made together: `wanted` has their prompt indices and samples."""

    method: tuple[str, int]
    seed: int
    wanted: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        """Spell it for messages."""
        (first, _), (last, _) = self.wanted[0], self.wanted[-1]
        prompts = f"prompt {first + 1}" if first == last else f"prompts {first + 1} to {last + 1}"
        return f"{self.method[0]} at {self.method[1]} particles, seed {self.seed}, {prompts}"

    @property
    def particles(self) -> int:
        """Count them all."""
        return self.method[1] * len(self.wanted)

    @property
    def keys(self) -> list[Key]:
        """List the keys of its rows."""
        return [(*self.method, self.seed, *pair) for pair in self.wanted]


def cells(suite: Suite, there: Container[Key], batch: int, part: tuple[int, int] = (1, 1)) -> list[Cell]:
    """List what is to do of one part of a suite, seed by seed and method by method.

    Args:
        suite: what is asked for.
        there: keys of the rows that are there.
        batch: most particles computed at once.
        part: (i, n), from 1: of n parts, the i-th has every n-th cell of the whole suite.

    Example:
        >>> from fktext_evals import load
        >>> [len(cell.wanted) for cell in cells(load("toxicity-smoke"), (), 8)][:3]
        [6, 2, 2]
    """
    everything = list(product(range(len(suite.prompts)), range(suite.samples)))
    whole = [
        Cell(method.key, seed, tuple(pairs))
        for seed, method in product(suite.seeds, suite.methods)
        for pairs in _chunks(everything, len(everything) if fits_first(method) else max(1, batch // method.settings.particles))
    ]
    left = [
        Cell(cell.method, cell.seed, tuple(pair for key, pair in zip(cell.keys, cell.wanted, strict=True) if key not in there))
        for cell in whole[part[0] - 1 :: part[1]]
    ]
    return [cell for cell in left if cell.wanted]


def batch_of(suite: Suite, batch_size: int | None, device: str) -> int:
    """Return the most particles of a cell: what is asked for, else what texts are made in on such a device, and images on any."""
    return batch_size or (64 if suite.modality == "image" or device.startswith("cpu") else 1024)


def fits_first(method: Method) -> bool:
    """Say whether a value is fitted before a method is run: then all its texts share the one fit, and its cost."""
    from fktext.values import FIT

    return method.settings.method in STEERING and method.settings.look_ahead == FIT


def _chunks(items: Sequence[tuple[int, int]], size: int) -> list[Sequence[tuple[int, int]]]:
    return [items[first : first + size] for first in range(0, len(items), size)]
