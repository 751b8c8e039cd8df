"""Count what a run costs."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace


@dataclass
class Ledger:
    """Count what a run has cost so far.

    Attributes:
        denoiser_rows: rows (particles) that went through the network.
        gradient_rows: rows that went through it once more: forward and backward for the gradient of a learned value, forward
            and then through the judges both ways for that of the rewards.
        cached_positions: positions of those rows that did not, as their keys and values were remembered (`fktext.masked.cache`).
        head_positions: positions that went through the vocabulary head.
        reward_requests: samples whose reward was asked for.
        reward_calls: samples that reached the reward models, after equal ones were merged and remembered ones looked up.
        denoiser_seconds: wall-clock time in the network and its head, drawing tokens included.
        reward_seconds: wall-clock time in the reward models.
        seconds: wall-clock time in all.
    """

    denoiser_rows: int = 0
    gradient_rows: int = 0
    cached_positions: int = 0
    head_positions: int = 0
    reward_requests: int = 0
    reward_calls: int = 0
    denoiser_seconds: float = 0.0
    reward_seconds: float = 0.0
    seconds: float = 0.0

    def __add__(self, other: Ledger) -> Ledger:
        return self._combine(operator.add, other)

    def __sub__(self, other: Ledger) -> Ledger:
        return self._combine(operator.sub, other)

    def _combine(self, how: Callable[[float, float], float], other: Ledger) -> Ledger:
        combined = {item.name: how(getattr(self, item.name), getattr(other, item.name)) for item in fields(Ledger)}
        return replace(self, **combined)  # type: ignore[arg-type]  # ints stay ints, floats floats

    @contextmanager
    def denoising(self) -> Iterator[None]:
        """Count the time of a block as `denoiser_seconds`."""
        started = time.perf_counter()
        yield
        self.denoiser_seconds += time.perf_counter() - started

    @property
    def cache_hits(self) -> int:
        """Reward requests answered without a reward model."""
        return self.reward_requests - self.reward_calls
