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
    """Divide the distinct n-grams by all n-grams of the texts of one prompt.

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
    """Divide the distinct n-grams by all words of the texts of one prompt: "dist-n" of DExperts, SSD-LM and FK steering.

    Source: Li et al. 2016 (arXiv 1510.03055), section 5.3, for each prompt's texts taken together.

    Example:
        >>> distinct_n_words(["a b a", "a b"], 2)
        0.4
    """
    grams = {gram for text in texts for gram in _ngrams(text, n)}
    words = sum(len(text.split(" ")) for text in texts)
    return len(grams) / words if words else math.nan


def entropy(text: str) -> float:
    """Return the entropy of a text's words in nats, log(number of words) when no word comes twice.

    Example:
        >>> entropy("a b a b") == math.log(2)
        True
    """
    counts = Counter(text.split(" "))
    total = counts.total()
    return sum(count / total * math.log(total / count) for count in counts.values())


def repetition(text: str, n: int = 2) -> float:
    """Return the share of a text's n-grams that it has had before; 0 for a text of fewer than n words.

    Source: "seq-rep-n" of Welleck et al. 2020 (arXiv 1908.04319), section 6.1.

    Example:
        >>> repetition("a b a b a")
        0.5
    """
    grams = list(_ngrams(text, n))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def bleu(text: str, references: Sequence[str], n: int = 4) -> float:
    """Return the BLEU of a text: the geometric mean of its n-gram precisions, for n-grams up to n, times the brevity penalty.

    A precision without a match is 0.1 / (number of n-grams), "method 1" of Chen and Cherry 2014, as Texygen computes it.
    Source: Papineni et al. 2002, sections 2.1 to 2.3.

    Returns:
        In [0, 1]; 0 where no word is in a reference.

    Example:
        >>> bleu("a b c d", ["a b c d", "x"])
        1.0
    """
    most: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(n)]
    for reference in references:
        most = [counts | Counter(_ngrams(reference, size)) for size, counts in enumerate(most, 1)]
    return _bleu(text, lambda size, gram, count: most[size - 1][gram], [len(reference.split(" ")) for reference in references], n)


def _bleu(text: str, most: Callable[[int, tuple[str, ...], int], int], lengths: Sequence[int], n: int) -> float:
    """Compute `bleu` from how often a reference has an n-gram at most: `most(size, n-gram, how often the text has it)`."""
    length, precisions = len(text.split(" ")), []
    for size in range(1, n + 1):
        counts = Counter(_ngrams(text, size))
        matches = sum(min(count, most(size, gram, count)) for gram, count in counts.items())
        if size == 1 and not matches:
            return 0.0
        precisions.append((matches or 0.1) / max(1, counts.total()))
    nearest = min(lengths, key=lambda other: (abs(other - length), other))
    penalty = math.exp(min(0.0, 1 - nearest / length))
    return penalty * math.exp(fmean(map(math.log, precisions)))


def self_bleu(texts: Sequence[str], n: int = 4) -> float:
    """Return the mean BLEU of each text with the others as references: near 1 where they are alike, nan for a single text.

    Source: Zhu et al. 2018 (Texygen, arXiv 1802.01886), section 3.

    Example:
        >>> self_bleu(["a b c d", "a b c d"])
        1.0
    """
    if len(texts) < 2:
        return math.nan
    # Of each n-gram the two highest counts in a text: the highest among the others is the second where a text has the first itself.
    highest: list[dict[tuple[str, ...], tuple[int, int]]] = [{} for _ in range(n)]
    for text in texts:
        for size, found in enumerate(highest, 1):
            for gram, count in Counter(_ngrams(text, size)).items():
                second, first = sorted((*found.get(gram, (0, 0)), count))[1:]
                found[gram] = second, first

    def most(size: int, gram: tuple[str, ...], count: int) -> int:
        second, first = highest[size - 1][gram]
        return second if count == first else first

    lengths = [len(text.split(" ")) for text in texts]
    return fmean(_bleu(text, most, [*lengths[:place], *lengths[place + 1 :]], n) for place, text in enumerate(texts))


def by_prompt(values: Sequence[Value], prompts: Sequence[object]) -> list[list[Value]]:
    """Group values by prompt, prompts in the order in which they first come."""
    groups: dict[object, list[Value]] = defaultdict(list)
    for value, prompt in zip(values, prompts, strict=True):
        groups[prompt].append(value)
    return list(groups.values())


def mean_over_prompts(metric: Callable[[list[Value]], float], values: Sequence[Value], prompts: Sequence[object]) -> float:
    """Take the mean over prompts of a metric of each prompt's values.

    Example:
        >>> mean_over_prompts(max, [1.0, 3.0, 2.0], ["a", "a", "b"])  # "expected maximum" of RealToxicityPrompts
        2.5
    """
    return fmean(metric(group) for group in by_prompt(values, prompts))


def perplexities(log_likelihoods: Sequence[float], tokens: Sequence[int]) -> tuple[float, float]:
    """Return the two perplexities that the literature prints: over all tokens, and the mean of each text's own.

    Args:
        log_likelihoods: of each text, in nats, summed over its tokens.
        tokens: how many each has, at least one.

    Returns:
        exp(-sum of log-likelihoods / sum of tokens), in which a long text counts for more; and the mean over texts of
        exp(-log-likelihood / tokens), in which one text that the model finds absurd may outweigh all others.

    Example:
        >>> [round(value, 3) for value in perplexities([-math.log(2) * 3, -math.log(8)], [3, 1])]
        [2.828, 5.0]
    """
    pooled = math.exp(-sum(log_likelihoods) / sum(tokens))
    return pooled, fmean(math.exp(-value / count) for value, count in zip(log_likelihoods, tokens, strict=True))


def _ngrams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    words = text.split(" ")
    return (tuple(words[start : start + n]) for start in range(len(words) - n + 1))
