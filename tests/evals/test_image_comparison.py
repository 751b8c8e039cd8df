"""Images compared by method: figures by weight, figures of what is returned, and their intervals."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fktext_evals.image_comparison import ImageJudge, compare, lines


class Says:
    """The images are their own values."""

    def __init__(self, log_probability: bool) -> None:
        self.log_probability = log_probability

    def score(self, samples: list[float]) -> list[float]:
        return samples


def population(values: list[float], weights: list[float]) -> Any:
    return SimpleNamespace(samples=values, log_w=torch.tensor(weights).log())


def heaviest(weighted: Any) -> list[int]:
    return [int(weighted.log_w.argmax())]


FOUND = {
    "best-of-n": [population([1.0, 3.0], [0.25, 0.75]), population([2.0, 6.0], [1.0, 0.0])],
    "fk": [population([4.0, 8.0], [0.5, 0.5]), population([6.0, 6.0], [0.1, 0.9])],
}


def test_means_by_weight_and_of_what_is_returned() -> None:
    verdicts = compare(FOUND, ImageJudge("size", Says(log_probability=False)), heaviest)
    assert [each.method for each in verdicts] == ["base", "best-of-n", "fk"]
    assert [each.population for each in verdicts] == pytest.approx([3.0, 2.25, 6.0])
    assert [each.returned.mean for each in verdicts] == pytest.approx([3.0, 2.5, 5.0])
    assert [each.images for each in verdicts] == [4, 2, 2]


def test_shares_where_values_are_log_probabilities() -> None:
    half = math.log(0.5)
    found = {"best-of-n": [population([half - 1, half + 0.1], [0.25, 0.75])]}
    judge = ImageJudge("seven", Says(log_probability=True))
    base, best = compare(found, judge, heaviest)
    assert (base.population, best.population) == pytest.approx((0.5, 0.75))
    assert next(lines([base, best], judge)) == "share with p > 1/2 by seven:"
    assert list(lines([best], judge))[2] == "  best-of-n      0.750       1.000  -               1 image"


def test_images_of_one_population_stand_or_fall_together_unless_nothing_steered_them() -> None:
    one = {"best-of-n": [population([1.0, 3.0, 2.0], [0.2, 0.3, 0.5])]}
    base, best = compare(one, ImageJudge("size", Says(log_probability=False)), lambda weighted: [0, 1, 2])
    assert base.returned.low < base.returned.mean < base.returned.high
    assert math.isnan(best.returned.low)
