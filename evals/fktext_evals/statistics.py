"""Means with 95% intervals that know which texts share a prompt.

Texts of one prompt are alike, so they count for less than as many texts of as many prompts. The bootstrap therefore draws prompts,
each with all its texts (Davison and Hinkley 1997, section 3.8). With few prompts the plain percentile interval is too short; here
its percentiles are moved outwards by what Student's t and the divisor G - 1 would add to a normal interval (Hesterberg 2015, "What
teachers should know about the bootstrap", the expanded percentile interval).

Where few texts hit, a bootstrap knows of no others. Differences of shares are therefore never surer than the shares themselves: see
`contrast_interval`.
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
    """Return the mean of all values, with a bootstrap interval clustered by prompt.

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
    """Return the share of hits, with an interval as in `mean_interval`.

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
    reach = _exact_reach(len(flags), level)
    return Interval(0.0, 0.0, 1 - reach) if found.mean == 0 else Interval(1.0, reach, 1.0)


def contrast_interval(
    values: ArrayLike,
    factors: ArrayLike,
    clusters: ArrayLike,
    *,
    shares: bool = False,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Return a weighted sum of the means of several methods, such as a difference, with an interval clustered by prompt.

    It is `mean_interval` of the pairs' own differences. With `shares` its ends are moved out, where they are further in, to those
    that the intervals of the single shares allow by Newcombe's square-and-add rule: each share p lies within (l, u), and the ends
    of p1 - p2 are as far from it as the lengths (p1 - l1, u2 - p2) and (u1 - p1, p2 - l2) of two vectors with the correlation of
    the shares between them. So where no text hits the interval is as wide as those of the shares, and it never has zero width.

    Args:
        values: (F, R) numbers, or booleans; a row for each method, a column for each text that all have.
        factors: (F,) what each mean counts for: (1, -1) is a difference.
        clusters: (R,) labels, see `mean_interval`.
        shares: the values are 0 or 1.
        level, resamples, seed: see `mean_interval`.

    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    method 10; for sums of more than two Zou, Huang and Zhang 2009, "A note on confidence interval estimation for a linear function
    of binomial proportions"; for the number of independent texts that texts of few prompts are worth Korn and Graubard 1998,
    "Confidence intervals for proportions with small expected number of positive counts estimated from survey data".

    Example:
        >>> found = contrast_interval([[0, 0, 0, 0], [0, 0, 0, 0]], [1, -1], ["a", "a", "b", "b"], shares=True)
        >>> [round(end, 3) for end in (found.low, found.mean, found.high)]  # as far as that of one share, see `share_interval`
        [-0.602, 0.0, 0.602]
    """
    sides, weights = np.asarray(values, dtype=np.float64), np.asarray(factors, dtype=np.float64)
    found = mean_interval(weights @ sides, clusters, level=level, resamples=resamples, seed=seed)
    if not shares or np.isnan(found.low):
        return found
    below, above = _square_and_add(sides, weights, clusters, level)
    return Interval(found.mean, min(found.low, found.mean - below), max(found.high, found.mean + above))


def _square_and_add(hits: NDArray[Any], factors: NDArray[Any], clusters: ArrayLike, level: float) -> tuple[float, float]:
    """Return how far the ends are below and above a weighted sum of shares; see `contrast_interval`."""
    hits, factors = hits[factors != 0], factors[factors != 0]
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    texts, groups, share = hits.shape[1], int(place.max()) + 1, hits.mean(1)
    rest = np.stack([np.bincount(place, weights=row) for row in hits - share[:, None]])
    covariance = rest @ rest.T * groups / (groups - 1) / texts**2
    alone, variance = share * (1 - share) / texts, covariance.diagonal()  # of independent texts, and of these
    known = variance > 1e-9 * alone
    worth = np.minimum(texts, texts * np.divide(alone, variance, out=np.ones_like(alone), where=known))
    # Correlations, less Newcombe's correction for continuity, 1 / (2 n p (1 - p)): with few hits nothing is left of them. In their
    # stead comes what is careful: shares that are added rise and fall together, those that are subtracted do not
    correction = 1 / max(1.0, 2 * float((worth * share * (1 - share)).min()))
    scale = np.sqrt(np.where(known, variance, 1.0))
    together = np.equal.outer(factors > 0, factors > 0)
    correlation = (1 - correction) * covariance / np.outer(scale, scale) + correction * together
    np.fill_diagonal(correlation, 1.0)
    low, high = _share_ends(share, worth, texts, groups, level)
    below, above = (factors * np.where((factors > 0) == down, share - low, high - share) for down in (True, False))
    return float(max(0.0, below @ correlation @ below) ** 0.5), float(max(0.0, above @ correlation @ above) ** 0.5)


def _share_ends(
    share: NDArray[Any], worth: NDArray[Any], texts: int, groups: int, level: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return Wilson's interval for as many independent texts as these are worth, with Student's t; exact at 0 and 1."""
    t2 = student_quantile((1 + level) / 2, groups - 1) ** 2
    centre = (share + t2 / (2 * worth)) / (1 + t2 / worth)
    half = np.sqrt(t2 * (share * (1 - share) / worth + t2 / (4 * worth**2))) / (1 + t2 / worth)
    ends, reach = [share == 0, share == 1], _exact_reach(texts, level)
    return np.select(ends, [0.0, reach], centre - half), np.select(ends, [1 - reach, 1.0], centre + half)


def _exact_reach(texts: int, level: float) -> float:
    """Return the share at which so many texts are all hits once in 2 / (1 - level) times."""
    return float(((1 - level) / 2) ** (1 / texts))


@cache
def student_quantile(probability: float, degrees: int, points: int = 10_001) -> float:
    """Return the quantile of Student's t distribution, for a probability of at least a half.

    With t = sqrt(degrees) tan(a) the density becomes cos(a)^(degrees - 1) on (-pi/2, pi/2), which is summed by trapezoids.

    Example:
        >>> [round(student_quantile(0.975, degrees), 3) for degrees in (1, 2, 14, 1000)]
        [12.706, 4.303, 2.145, 1.962]
    """
    angle = np.linspace(0, np.pi / 2, points)
    density = np.cos(angle) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(degrees**0.5 * np.tan(np.interp(2 * probability - 1, area / area[-1], angle)))
