"""Fit what work costs on a machine: a network row, a position of the vocabulary head, a text that is judged.

A call of n units takes `call + unit * n` seconds: the line through a few measured calls, by least squares, with neither below 0.
`benchmarks/sweep.py` multiplies these by what a suite needs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from fktext.rewards import Weighted
from fktext.testing.speed import clock, peak_memory
from fktext.text import Text

REPEATS = 3  # of each call; the fastest counts


@dataclass(frozen=True)
class Cost:
    """Hold what a call costs: `call` seconds whatever it is for, `unit` seconds for each unit, and `flops` of a unit."""

    call: float
    unit: float
    flops: float

    def seconds(self, calls: float, units: float) -> float:
        """Return the seconds of so many calls with so many units in all."""
        return calls * self.call + units * self.unit


@dataclass(frozen=True)
class Costs:
    """Hold what was fitted.

    Attributes:
        length: L, tokens of a row.
        row: a row of the network without its head, in calls of up to `rows`.
        head: a position of the vocabulary head.
        rewards: a text, by reward.
        row_bytes: most memory that a row of the network takes while it is computed; None where that cannot be told.
        weight_bytes: of the network.
    """

    length: int
    rows: int
    row: Cost
    head: Cost
    rewards: dict[str, Cost]
    row_bytes: int | None
    weight_bytes: int

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def fit(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """Return (call, unit) of the line nearest to measured seconds, neither below 0.

    Example:
        >>> fit([1, 2, 4], [3.0, 5.0, 9.0])
        (1.0, 2.0)
    """
    count, x, y = len(sizes), sum(sizes), sum(seconds)
    xx, xy = sum(size * size for size in sizes), sum(size * took for size, took in zip(sizes, seconds, strict=True))
    unit = (count * xy - x * y) / (count * xx - x * x)
    call = (y - unit * x) / count
    if unit < 0:
        return y / count, 0.0
    return (call, unit) if call >= 0 else (0.0, xy / xx)


def measure(net: Any, terms: Sequence[Weighted], texts: Sequence[Text], length: int, rows: int = 8) -> Costs:
    """Fit the costs of a network and of rewards on the machine they are on.

    Args:
        net: a denoiser (`fktext.masked.denoiser.Denoiser`).
        terms: rewards.
        texts: as many as `rows`, like those that will be judged.
        length: L, tokens of a row.
        rows: most rows of a call, at least 2.
    """
    device = str(net.device)
    ids = torch.full((rows, length), net.mask_id, device=device)
    times = torch.ones(rows, device=device)
    hidden = net.encode(ids[:1], times[:1])  # warms up, too
    _trim()
    before = peak_memory(device, reset=True)
    net.encode(ids, times)
    after = peak_memory(device)
    positions = hidden.reshape(-1, hidden.shape[-1])[:1].expand(rows * length, -1).contiguous()
    return Costs(
        length=length,
        rows=rows,
        row=_cost(lambda size: net.encode(ids[:size], times[:size]), rows, device),
        head=_cost(lambda size: net.logits(positions[:size]), rows * length, device),
        rewards={term.name: _cost(partial(_score, term, texts), rows, device) for term in terms},
        row_bytes=None if before is None or after is None else (after - before) // rows,
        weight_bytes=sum(part.nbytes for part in net.state_dict().values()) if isinstance(net, torch.nn.Module) else 0,
    )


def _score(term: Weighted, texts: Sequence[Text], size: int) -> Any:
    return term.reward.score(list(texts[:size]))


def _cost(call: Callable[[int], Any], most: int, device: str) -> Cost:
    """Time calls of 1, half of and all of so many units, and count the arithmetic of the largest."""
    sizes = sorted({1, (most + 1) // 2, most})
    call(sizes[-1])  # warm up
    seconds = []
    for size in sizes:
        took = []
        for _ in range(REPEATS):
            started = clock(device)
            call(size)
            took.append(clock(device) - started)
        seconds.append(min(took))
    return Cost(*fit(sizes, seconds), flops=count_flops(lambda: call(most)) / most)


def _trim() -> None:
    """Let glibc give free memory back, so that what a call takes is seen as growth of the process."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def count_flops(call: Callable[[], Any]) -> int:
    """Count the arithmetic of matrix products and attention in a call; on the device "meta" nothing is computed."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())
