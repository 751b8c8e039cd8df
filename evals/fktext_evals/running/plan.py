"""Says what a run would take before it is done, from rows that are there already or from a pilot of one text of each method."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from fktext_evals.running import results
from fktext_evals.running.cells import Cell, batch_of, cells
from fktext_evals.running.results import Row
from fktext_evals.running.work import Work
from fktext_evals.suites.suite import Method

_COSTS = ("denoiser_rows", "reward_calls", "seconds")


@dataclass(frozen=True)
class Share:
    """What is left to do of one method, and what that would cost.

    Attributes:
        method, particles: which one.
        texts, cells: how many are left, and in how many batches.
        denoiser_rows, reward_calls: of all of them.
        hours: of one worker.
        measured_on: how many texts the costs of one are the mean of.
        by: "rows" that are there, or a "pilot", whose batch of one text takes longer than its share of a full one.
    """

    method: str
    particles: int
    texts: int
    cells: int
    denoiser_rows: float
    reward_calls: float
    hours: float
    measured_on: int
    by: str


@dataclass(frozen=True)
class Plan:
    """What a run would take: a share for each method; `memory` is the peak of the pilot's process or GPU in bytes."""

    shares: tuple[Share, ...]
    memory: int

    @property
    def hours(self) -> float:
        """Add up the hours of one worker."""
        return sum(share.hours for share in self.shares)

    def line(self, workers: int = 1) -> str:
        """Say it in one line."""
        texts, batches = (sum(getattr(share, name) for share in self.shares) for name in ("texts", "cells"))
        rows, calls = (sum(getattr(share, name) for share in self.shares) for name in ("denoiser_rows", "reward_calls"))
        at_best = f", {self.hours / workers:.2g} at best with {workers} workers" if workers > 1 else ""
        return (
            f"{batches} cells of {texts} texts are left: about {rows:,.0f} denoiser rows, {calls:,.0f} reward calls and "
            f"{self.hours:.2g} hours of one worker{at_best}; each worker needs {self.memory / 2**30:.1f} GiB or more"
        )


def plan(work: Work, there: Sequence[Row], device: str, part: tuple[int, int] = (1, 1)) -> Plan:
    """Estimate what is left of a suite.

    Args:
        work: the suite, loaded; one text is made of each method of which no row is there, and not kept.
        there: rows of it.
        device: where it is.
        part: which part of how many.

    Raises:
        RewardError: a reward or judge failed.
    """
    suite = work.suite
    left = cells(suite, {results.key(row) for row in there}, batch_of(suite, work.batch_size, device), part)
    shares = [_share(work, method, [cell for cell in left if cell.method == method.key], there) for method in suite.methods]
    return Plan(tuple(shares), _peak(device))


def _share(work: Work, method: Method, left: Sequence[Cell], there: Sequence[Row]) -> Share:
    """Estimate one method."""
    rows, by = [row for row in there if (row["method"], row["particles"]) == method.key], "rows"
    if left and not rows:
        first = left[0].wanted[0]
        made: list[Any] = [item for item in work.made(method, left[0].seed, frozenset([first])) if isinstance(item, list)]
        rows, by = [row for batch in made for row in batch], "pilot"
    texts = sum(len(cell.wanted) for cell in left)
    denoiser_rows, calls, seconds = (texts * fmean(row[name] for row in rows) if texts else 0.0 for name in _COSTS)
    return Share(*method.key, texts, len(left), denoiser_rows, calls, seconds / 3600, len(rows), by)


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
