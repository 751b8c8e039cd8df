"""Intervals hold the truth as often as they say, and ignoring prompts does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fktext_evals.statistics import Interval, contrast_interval, mean_interval, share_interval, student_quantile

PROMPTS, TEXTS, REPEATS = 15, 10, 300


def coverage(*, clustered: bool, seed: int, truth: float = 0.3, spread: float = 6.0) -> float:
    """How often intervals hold the true share when prompts differ: p of a prompt ~ Beta, texts Bernoulli(p)."""
    random = np.random.default_rng(seed)
    held = 0
    for _ in range(REPEATS):
        chances = random.beta(truth * spread, (1 - truth) * spread, size=PROMPTS)
        hits = random.random((PROMPTS, TEXTS)) < chances[:, None]
        labels = np.repeat(np.arange(PROMPTS), TEXTS) if clustered else np.arange(PROMPTS * TEXTS)
        found = share_interval(hits.ravel(), labels, resamples=400, seed=seed)
        held += found.low <= truth <= found.high
    return held / REPEATS


def test_intervals_cover_as_often_as_they_say() -> None:
    # 300 intervals have a standard error of 1.3 %
    assert coverage(clustered=True, seed=1) == pytest.approx(0.95, abs=0.035)


def test_ignoring_prompts_covers_too_little() -> None:
    assert coverage(clustered=False, seed=1) < 0.88


def test_paired_differences_cover_and_are_shorter_than_unpaired() -> None:
    random = np.random.default_rng(2)
    labels = np.repeat(np.arange(PROMPTS), TEXTS)
    held, shorter = 0, 0
    for _ in range(100):
        level = np.repeat(random.normal(0, 2, PROMPTS), TEXTS)  # shared by both methods: what pairing takes out
        one, other = (level + shift + random.normal(0, 1, len(labels)) for shift in (0.5, 0.0))
        paired = mean_interval(one - other, labels, resamples=400)
        held += paired.low <= 0.5 <= paired.high
        apart = mean_interval(one, labels, resamples=400)
        shorter += paired.high - paired.low < apart.high - apart.low
    assert held / 100 > 0.9
    assert shorter == 100


RARE = [(0.02, 0.01, 15, 8), (0.01, 0.005, 15, 4), (0.02, 0.04, 5, 4), (0.01, 0.03, 3, 2)]
COMMON = [(0.3, 0.5, 15, 8), (0.3, 0.5, 15, 4)]


def coverage_of_differences(
    case: tuple[float, float, int, int], repeats: int, *, shares: bool = True, spread: float = 6.0, alike: bool = False
) -> tuple[float, float]:
    """How often intervals of differences of shares hold the true one, and their mean width; p of a prompt ~ Beta.

    Where prompts are `alike` for both methods, p of one is everywhere the same multiple of p of the other.
    """
    one, other, prompts, texts = case
    random, labels, held, width = np.random.default_rng(5), np.repeat(np.arange(prompts), texts), 0, 0.0
    for _ in range(repeats):
        means = [max(one, other)] * 2 if alike else [one, other]
        chances = [random.beta(mean * spread, (1 - mean) * spread, size=prompts) for mean in means]
        if alike:
            chances = [chances[0] * mean / means[0] for mean in (one, other)]
        hits = [random.random(prompts * texts) < chance[labels] for chance in chances]
        found = contrast_interval(hits, [1, -1], labels, shares=shares, resamples=400)
        held += found.low <= one - other <= found.high
        width += (found.high - found.low) / repeats
    return held / repeats, width


@pytest.mark.parametrize("case", RARE)
def test_differences_of_rare_shares_are_not_too_sure(case: tuple[float, float, int, int]) -> None:
    assert coverage_of_differences(case, 100)[0] >= 0.93
    assert coverage_of_differences(case, 100, shares=False)[0] < 0.9  # the bootstrap alone is


def test_differences_of_common_shares_stay_as_wide_as_they_should() -> None:
    for alike in (False, True):
        held, width = coverage_of_differences(COMMON[0], 100, alike=alike)
        assert 0.9 <= held <= 0.99
        assert width < 1.15 * coverage_of_differences(COMMON[0], 100, shares=False, alike=alike)[1]


@pytest.mark.long
@pytest.mark.parametrize("alike", [False, True])
@pytest.mark.parametrize("spread", [2.0, 6.0, 20.0])
@pytest.mark.parametrize("case", [*RARE, *COMMON])
def test_differences_of_shares_cover(case: tuple[float, float, int, int], spread: float, alike: bool) -> None:
    """1000 intervals have a standard error of 0.7 %."""
    held, width = coverage_of_differences(case, 1000, spread=spread, alike=alike)
    assert held >= 0.93
    if case in COMMON:
        assert held <= 0.99
        assert width < 1.15 * coverage_of_differences(case, 1000, shares=False, spread=spread, alike=alike)[1]


def both(*counts: int) -> list[list[int]]:
    """Hits of methods with 60 texts: as many of the first ones."""
    return [[int(text < hits) for text in range(60)] for hits in counts]


@pytest.mark.parametrize("hits", [(0, 0), (0, 1), (1, 1), (60, 60), (0, 60), (30, 30), (60, 59)])
def test_no_difference_of_shares_is_certain(hits: tuple[int, int]) -> None:
    """Also where all pairs agree."""
    found = contrast_interval(both(*hits), [1, -1], np.repeat(np.arange(15), 4), shares=True)
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert found.high - found.low > 0.01
    turned = contrast_interval(both(*hits)[::-1], [1, -1], np.repeat(np.arange(15), 4), shares=True)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_a_difference_without_hits_is_as_wide_as_the_shares() -> None:
    labels = [0, 1, 2, 3]
    found, share = contrast_interval(np.zeros((2, 4)), [1, -1], labels, shares=True), share_interval(np.zeros(4), labels)
    assert (found.low, found.mean, found.high) == pytest.approx((-share.high, 0, share.high))


def test_a_method_that_counts_for_nothing_changes_no_interval() -> None:
    hits = both(20, 30)
    two = contrast_interval(hits, [1, -1], np.repeat(np.arange(15), 4), shares=True)
    assert contrast_interval([*hits, [0] * 60], [1, -1, 0], np.repeat(np.arange(15), 4), shares=True) == two
    half = contrast_interval([*hits, hits[1]], [1, -0.5, -0.5], np.repeat(np.arange(15), 4), shares=True)
    assert (half.mean, half.low, half.high) == pytest.approx((two.mean, two.low, two.high), abs=0.02)


def test_one_prompt_has_no_interval_of_differences() -> None:
    assert math.isnan(contrast_interval([[0, 1], [1, 1]], [1, -1], ["a", "a"], shares=True).low)


def test_known_means() -> None:
    found = mean_interval([1.0, 2.0, 3.0, 10.0], ["a", "a", "b", "c"])
    assert found.mean == 4.0
    assert 1.5 <= found.low < 4.0 < found.high <= 10.0
    assert found == mean_interval([10.0, 3.0, 1.0, 2.0], [9, 5, 3, 3])  # labels and order do not matter... but for rounding
    assert mean_interval([2.0, 2.0, 2.0], [0, 1, 2]) == Interval(2.0, 2.0, 2.0)


def test_weights_count_as_repetition() -> None:
    values, prompts, times = [0.1, 0.7, 0.4, 0.9], ["a", "a", "b", "c"], [3, 1, 2, 4]
    repeated = [(value, prompt) for value, prompt, count in zip(values, prompts, times, strict=True) for _ in range(count)]
    expected = mean_interval(*zip(*repeated, strict=True))
    found = mean_interval(values, prompts, weights=times)
    assert (found.mean, found.low, found.high) == pytest.approx((expected.mean, expected.low, expected.high))
    assert found.mean != mean_interval(values, prompts).mean


def test_one_prompt_has_no_interval() -> None:
    found = mean_interval([0.0, 1.0], ["a", "a"])
    assert found.mean == 0.5
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isnan(share_interval([True, True], ["a", "a"]).low)


@pytest.mark.parametrize("hit", [True, False])
def test_all_or_nothing_is_not_certainty(hit: bool) -> None:
    found = share_interval([hit] * 150, list(range(15)) * 10)
    far = found.low if hit else 1 - found.high
    assert far**150 == pytest.approx(0.025)  # the share at which 150 of 150 happens once in forty times
    assert found.mean == hit


@pytest.mark.parametrize(("values", "clusters"), [([], []), ([1.0, 2.0], [0]), ([[1.0], [2.0]], [0, 1])])
def test_bad_input(values: list[float], clusters: list[int]) -> None:
    with pytest.raises(ValueError, match="expected as many clusters as values"):
        mean_interval(values, clusters)


def test_student_quantile_against_tables() -> None:
    for degrees, value in ((1, 12.7062), (2, 4.3027), (3, 3.1824), (14, 2.1448), (29, 2.0452), (1000, 1.9623)):
        assert student_quantile(0.975, degrees) == pytest.approx(value, abs=2e-4)
