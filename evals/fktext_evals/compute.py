"""Methods at equal cost: what best-of-n would have given for the denoiser rows, reward calls or seconds of another method.

Best-of-n is run at a few N; between two of them it is interpolated, linearly in the logarithm of the mean cost per text. Where a
share is small it grows like N, faster than such a line, so that the line lies above it: that favours best-of-n. Beyond the
largest N nothing is said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from fktext_evals.running.results import Results, Row, key
from fktext_evals.statistics import Interval, contrast_interval
from fktext_evals.suites.suite import Method

Axis = Literal["denoiser_rows", "reward_calls", "seconds"]
Measure = Callable[[Sequence[Row]], Sequence[float]]


@dataclass(frozen=True)
class Matched:
    """A method and another at its cost.

    Attributes:
        axis: what costs are counted in.
        cost: the method's, per text.
        particles: the N of the other method at that cost, interpolated; beyond its largest run, that run's.
        share: `cost` as a multiple of what the other method costs at `particles`: 1 where it is interpolated, more beyond.
        difference: the method minus the other; None where the cost is outside of what was run.
    """

    axis: Axis
    cost: float
    particles: float
    share: float
    difference: Interval | None


def cost(rows: Sequence[Row], axis: Axis) -> float:
    """Return the mean cost of a text."""
    return fmean(row[axis] for row in rows)


def at_equal_cost(
    results: Results, method: Method, other: str, measure: Measure, axis: Axis, *, shares: bool = False
) -> Matched | None:
    """Compare a method with another that was run at several N, at the method's own mean cost.

    Prompts, seeds and samples are paired: each text of the method is compared with the interpolation between the two texts of the
    same prompt, seed and sample from the runs whose costs are next to its own. The interval is that of the paired differences; the
    place between the two runs is taken as known.

    Args:
        results: of a run that holds both.
        method: what is compared.
        other: the name of what it is compared with, such as "best-of-n".
        measure: rows -> a number for each.
        axis: what costs are counted in.
        shares: the number is 0 or 1, see `contrast_interval`.

    Returns:
        None where one of the two was not run, or no text is in all three.
    """
    rows = results.of(method.key)
    curve = sorted(
        (cost(found, axis), item.settings.particles, found)
        for item in results.suite.methods
        if item.name == other and (found := results.of(item.key))
    )
    if not rows or not curve:
        return None
    own = cost(rows, axis)
    if not curve[0][0] <= own <= curve[-1][0]:
        near = curve[0] if own < curve[0][0] else curve[-1]
        return Matched(axis, own, near[1], own / near[0] if near[0] else math.inf, None)
    above = next(place for place, (price, _, _) in enumerate(curve) if price >= own)
    if curve[above][0] == own:
        low = high = curve[above]
        weight = 0.0
    else:
        low, high = curve[above - 1], curve[above]
        weight = math.log(own / low[0]) / math.log(high[0] / low[0]) if low[0] > 0 else own / high[0]
    ours, lower, upper = (measured(side, measure) for side in (rows, low[2], high[2]))
    if not (common := [who for who in ours if who in lower and who in upper]):
        return None
    particles = low[1] * (high[1] / low[1]) ** weight
    return Matched(axis, own, particles, 1.0, contrast([ours, lower, upper], [1, weight - 1, -weight], common, shares=shares))


Which = tuple[int, int, int]  # seed, prompt and sample: which text it is of those of its method


def contrast(
    sides: Sequence[Mapping[Which, float]], factors: Sequence[float], common: Sequence[Which], *, shares: bool
) -> Interval:
    """Return a weighted sum of the means of methods' numbers over the texts that all have; of nan where one is not finite."""
    values = [[side[who] for who in common] for side in sides]
    if not all(math.isfinite(value) for row in values for value in row):
        return Interval(math.nan, math.nan, math.nan)
    return contrast_interval(values, factors, [prompt for _, prompt, _ in common], shares=shares)


def measured(rows: Sequence[Row], measure: Measure) -> dict[Which, float]:
    """Return the number of each text, by which text it is."""
    return {key(row)[2:]: value for row, value in zip(rows, measure(rows), strict=True)}
