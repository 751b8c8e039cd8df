"""Intervals hold the truth as often as they say, and ignoring prompts does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fktext_evals.statistics import Interval, mean_interval, share_interval, student_quantile

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
