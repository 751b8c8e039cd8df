"""Metrics on texts whose answers are known by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fktext_evals import metrics

TEXTS = ["a b a", "a b", "c"]


def test_the_two_definitions_of_distinct_n() -> None:
    # unigrams a b c of 6 words; bigrams ab ba of 3 bigrams and 6 words; trigram aba of 1 trigram and 6 words
    assert [metrics.distinct_n(TEXTS, n) for n in (1, 2, 3)] == pytest.approx([3 / 6, 2 / 3, 1 / 1])
    assert [metrics.distinct_n_words(TEXTS, n) for n in (1, 2, 3)] == pytest.approx([3 / 6, 2 / 6, 1 / 6])


def test_distinct_n_without_n_words() -> None:
    assert math.isnan(metrics.distinct_n(["a"], 2))
    assert metrics.distinct_n_words(["a"], 2) == 0


def test_entropy_and_repetition() -> None:
    assert metrics.entropy("a a a") == 0
    assert metrics.entropy("a b c d") == pytest.approx(math.log(4))
    assert metrics.entropy("a a b c") == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    assert metrics.repetition("a b c d") == 0
    assert metrics.repetition("a b a b a b") == pytest.approx(1 - 2 / 5)
    assert metrics.repetition("a") == 0


def test_by_prompt() -> None:
    assert metrics.by_prompt([1, 2, 3, 4], ["x", "y", "x", "z"]) == [[1, 3], [2], [4]]
    assert metrics.mean_over_prompts(max, [0.1, 0.9, 0.4], ["x", "x", "y"]) == pytest.approx(0.65)


@given(st.lists(st.text("ab "), min_size=1), st.integers(1, 3))
def test_distinct_is_a_share_and_repeating_texts_lowers_it(texts: list[str], n: int) -> None:
    for metric in (metrics.distinct_n, metrics.distinct_n_words):
        once = metric(texts, n)
        if not math.isnan(once):
            assert 0 <= once <= 1
            assert metric(texts * 2, n) == pytest.approx(once / 2)
