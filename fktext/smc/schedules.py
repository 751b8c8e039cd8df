"""Choose when particles are weighed. The finished sample always is, exactly once.

For masked models steps are progress: after k of T steps the ancestral, the first-hitting and ReMDM's cap and rescale kernels have
revealed k/T of the positions on average, and `any-order` so many of every particle. ReMDM's loop and SEDD's analytic kernel have a
pace of their own: name their weighings with `At`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from fktext.errors import UsageError


class Schedule(Protocol):
    """Choose the steps after which particles are weighed and may be resampled."""

    def weighings(self, num_steps: int) -> tuple[int, ...]:
        """Return steps k in 1 .. num_steps, ascending, ending with num_steps; k counts the reverse steps already taken."""
        ...


@dataclass(frozen=True)
class Every:
    """Weigh after every n steps, within the window start < k <= end.

    Example:
        >>> Every(20).weighings(100)
        (20, 40, 60, 80, 100)
        >>> Every(20, start=20, end=60).weighings(90)
        (40, 60, 90)
    """

    n: int
    start: int = 0
    end: int | None = None

    def __post_init__(self) -> None:
        if self.n < 1 or self.start < 0 or (self.end is not None and self.end <= self.start):
            raise UsageError(f"a schedule needs n >= 1 and 0 <= start < end; got n={self.n}, start={self.start}, end={self.end}")

    def weighings(self, num_steps: int) -> tuple[int, ...]:
        """Return every n-th step of the window, and the last step."""
        end = num_steps if self.end is None else min(self.end, num_steps)
        return At([k for k in range(self.n, num_steps, self.n) if self.start < k <= end]).weighings(num_steps)


@dataclass(frozen=True)
class At:
    """Weigh after the named steps; `At([])` weighs finished samples only."""

    steps: Sequence[int]

    def weighings(self, num_steps: int) -> tuple[int, ...]:
        """Return the named steps in order without repeats, and the last step."""
        if wrong := [k for k in self.steps if not 1 <= k <= num_steps]:
            raise UsageError(f"weighing step {wrong[0]} is outside 1 .. {num_steps}")
        return tuple(sorted({*self.steps, num_steps}))
