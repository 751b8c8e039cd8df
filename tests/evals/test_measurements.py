"""The measurements of `evaluate`: what they are called, and that they need no network. Importing evaluate takes seconds."""

from __future__ import annotations

import math

import pytest

TEXTS, PROMPTS = [" is red", " is red", " ran on"], ["she", "she", "he"]


class Judge:
    """log p of a text, by its length."""

    def score(self, samples: list[str]) -> list[float]:
        return [-math.log(len(text)) for text in samples]


def test_measurements() -> None:
    from fktext_evals.measurements import Distinct, Judgement, Repetition

    found = Distinct().compute(predictions=TEXTS, prompts=PROMPTS)
    assert found["distinct_1_words"] == pytest.approx((3 / 6 + 3 / 3) / 2)
    assert found["distinct_2"] == pytest.approx((2 / 4 + 2 / 2) / 2)
    assert Repetition().compute(predictions=TEXTS, prompts=PROMPTS)["repetition"] == 0
    judged = Judgement(Judge(), "short", threshold=0.105).compute(predictions=TEXTS, prompts=PROMPTS)
    assert judged["short"] == pytest.approx([1 / 10, 1 / 10, 1 / 9])  # of "she is red", "he ran on"
    assert judged["mean_short"] == pytest.approx((2 / 10 + 1 / 9) / 3)
    assert judged["short_ratio"] == pytest.approx(1 / 3)
    assert judged["expected_max_short"] == pytest.approx((1 / 10 + 1 / 9) / 2)


def test_batches_add_up() -> None:
    from fktext_evals.measurements import Distinct

    measurement = Distinct()
    for text, prompt in zip(TEXTS, PROMPTS, strict=True):
        measurement.add(predictions=text, prompts=prompt)
    assert measurement.compute() == Distinct().compute(predictions=TEXTS, prompts=PROMPTS)
