"""What is measured on texts, as plain functions; `fktext_evals.measurements` wraps them for `evaluate`.

A word is what stands between single spaces, as in the scripts of the literature: two spaces in a row hold an empty word.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import TypeVar

Value = TypeVar("Value")


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams / all n-grams of the texts of one prompt.

    Args:
        texts: continuations, without their prompt.
        n: words per n-gram.

    Returns:
        In [0, 1]; nan where no text has n words.

    Example:
        >>> distinct_n(["a b a", "a b"], 2)
        0.6666666666666666
    """
    grams = [gram for text in texts for gram in _ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def distinct_n_words(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams / all words of the texts of one prompt: "dist-n" of DExperts, SSD-LM and Feynman-Kac steering.

    Source: Li et al. 2016 (arXiv 1510.03055), section 5.3, for each prompt's texts taken together.

    Example:
        >>> distinct_n_words(["a b a", "a b"], 2)
        0.4
    """
    grams = {gram for text in texts for gram in _ngrams(text, n)}
    words = sum(len(text.split(" ")) for text in texts)
    return len(grams) / words if words else math.nan


def entropy(text: str) -> float:
    """Entropy of a text's words in nats, log(number of words) when no word comes twice.

    Example:
        >>> entropy("a b a b") == math.log(2)
        True
    """
    counts = Counter(text.split(" "))
    total = counts.total()
    return sum(count / total * math.log(total / count) for count in counts.values())


def repetition(text: str, n: int = 2) -> float:
    """The share of a text's n-grams that it has had before; 0 for a text of fewer than n words.

    Source: "seq-rep-n" of Welleck et al. 2020 (arXiv 1908.04319), section 6.1.

    Example:
        >>> repetition("a b a b a")
        0.5
    """
    grams = list(_ngrams(text, n))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def by_prompt(values: Sequence[Value], prompts: Sequence[object]) -> list[list[Value]]:
    """The values of each prompt, prompts in the order in which they first come."""
    groups: dict[object, list[Value]] = defaultdict(list)
    for value, prompt in zip(values, prompts, strict=True):
        groups[prompt].append(value)
    return list(groups.values())


def mean_over_prompts(metric: Callable[[list[Value]], float], values: Sequence[Value], prompts: Sequence[object]) -> float:
    """The mean over prompts of a metric of each prompt's values.

    Example:
        >>> mean_over_prompts(max, [1.0, 3.0, 2.0], ["a", "a", "b"])  # "expected maximum" of RealToxicityPrompts
        2.5
    """
    return fmean(metric(group) for group in by_prompt(values, prompts))


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = text.split(" ")
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))
