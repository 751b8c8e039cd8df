"""Means with 95% intervals that know which texts share a prompt.

Texts of one prompt are alike, so they count for less than as many texts of as many prompts. The bootstrap therefore draws prompts,
each with all its texts (Davison and Hinkley 1997, section 3.8). With few prompts the plain percentile interval is too short; here
its percentiles are moved outwards by what Student's t and the divisor G - 1 would add to a normal interval (Hesterberg 2015, "What
teachers should know about the bootstrap", the expanded percentile interval).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its interval; nan where there are too few prompts to tell."""

    mean: float
    low: float
    high: float


def mean_interval(
    values: ArrayLike,
    clusters: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of all values, with a bootstrap interval clustered by prompt.

    For a paired comparison give the differences of the pairs.

    Args:
        values: (R,) numbers.
        clusters: (R,) hashable labels; values with the same label stand or fall together.
        weights: (R,) positive numbers, how much each value counts for in the mean; by default 1.
        level: the share of such intervals that should hold the true mean, over new prompts and new texts.
        resamples: bootstrap draws.
        seed: of the draws; the same values give the same interval.

    Returns:
        An interval without ends where there are fewer than two clusters.

    Raises:
        ValueError: no values, or not one cluster per value.

    Example:
        >>> mean_interval([0, 1, 1, 1], ["a", "a", "b", "b"]).mean
        0.75
        >>> mean_interval([0, 1], ["a", "b"], weights=[1, 3]).mean
        0.75
    """
    numbers = np.asarray(values, dtype=np.float64)
    counts = np.ones_like(numbers) if weights is None else np.asarray(weights, dtype=np.float64)
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    if numbers.ndim != 1 or not len(numbers) or len(place) != len(numbers):
        raise ValueError(f"expected as many clusters as values, at least one, got {numbers.shape} values and {len(place)} clusters")
    sums, sizes = np.bincount(place, weights=numbers * counts), np.bincount(place, weights=counts)
    mean, groups = float(sums.sum() / sizes.sum()), len(sums)
    if groups < 2:
        return Interval(mean, float("nan"), float("nan"))
    draws = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    means = (draws @ sums) / (draws @ sizes)
    tail = NormalDist().cdf(-((groups / (groups - 1)) ** 0.5) * student_quantile((1 + level) / 2, groups - 1))
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def share_interval(
    hits: ArrayLike, clusters: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The share of hits, with an interval as in `mean_interval`.

    Where all or none are hits the bootstrap has nothing to tell. Then the far end is that of the exact binomial interval for as
    many independent texts (Clopper and Pearson 1934), which is too close, if anything, when a prompt's texts are alike.

    Args:
        hits: (R,) booleans.
        clusters, level, resamples, seed: see `mean_interval`.

    Example:
        >>> round(share_interval([True] * 4, ["a", "a", "b", "b"]).low, 3)
        0.398
    """
    flags: NDArray[Any] = np.asarray(hits, dtype=bool)
    found = mean_interval(flags, clusters, level=level, resamples=resamples, seed=seed)
    if found.mean not in (0.0, 1.0) or np.isnan(found.low):
        return found
    reach = ((1 - level) / 2) ** (1 / len(flags))
    return Interval(0.0, 0.0, 1 - reach) if found.mean == 0 else Interval(1.0, reach, 1.0)


@cache
def student_quantile(probability: float, degrees: int, points: int = 10_001) -> float:
    """The quantile of Student's t distribution, for a probability of at least a half.

    With t = sqrt(degrees) tan(a) the density becomes cos(a)^(degrees - 1) on (-pi/2, pi/2), which is summed by trapezoids.

    Example:
        >>> [round(student_quantile(0.975, degrees), 3) for degrees in (1, 2, 14, 1000)]
        [12.706, 4.303, 2.145, 1.962]
    """
    angle = np.linspace(0, np.pi / 2, points)
    density = np.cos(angle) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(degrees**0.5 * np.tan(np.interp(2 * probability - 1, area / area[-1], angle)))
