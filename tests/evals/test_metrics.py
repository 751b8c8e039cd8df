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


@pytest.mark.parametrize(
    ("text", "references", "value"),
    [
        ("the cat sat on the mat", ["the cat is on the mat", "there is a cat on the mat"], 0.25406637407730737),
        ("a b", ["a b c d", "b a"], 0.316227766016838),
        ("x y z w v", ["a b c d x"], 0.05372849659117709),
        ("the the the the", ["the cat sat"], 0.08034284189446518),
        ("the book is red and old", ["the book is red", "a red and old book is here now"], 0.7071067811865475),
        ("the the cat sat", ["the cat sat here", "the dog"], 0.3976353643835253),  # "the" counts once: no reference has two
        ("a b", ["c d"], 0.0),
    ],
)
def test_bleu_is_that_of_nltk(text: str, references: list[str], value: float) -> None:
    """Against nltk 3 (sentence_bleu, method1), where the n-grams of a text that is too short count as one that does not match."""
    assert metrics.bleu(text, references) == pytest.approx(value, rel=1e-12)


def test_self_bleu() -> None:
    assert metrics.self_bleu(["a b c d e"] * 3) == pytest.approx(1)
    assert metrics.self_bleu(["a b c d e", "f g h i j"]) == 0
    assert math.isnan(metrics.self_bleu(["a b"]))
    texts = ["the book is red", "the book is old", "a city in a lake"]
    assert metrics.self_bleu(texts) == pytest.approx(
        (metrics.bleu(texts[0], texts[1:]) + metrics.bleu(texts[1], texts[::2]) + metrics.bleu(texts[2], texts[:2])) / 3
    )


def test_the_two_perplexities_differ() -> None:
    pooled, per_text = metrics.perplexities([-10 * math.log(2), -math.log(100)], [10, 1])
    assert pooled == pytest.approx(math.exp((10 * math.log(2) + math.log(100)) / 11))
    assert per_text == pytest.approx((2 + 100) / 2)


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
