"""The Flesch reading ease (R. Flesch, "A new readability yardstick", Journal of Applied Psychology 32, 1948)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Literal

import regex

from fktext import RewardContext

EASIEST = 206.835 - 1.015 - 84.6  # a sentence of one word of one syllable
_WORD = regex.compile(r"\p{Latin}[\p{Latin}\p{M}]*(?:['\u2019]\p{Latin}+)*")  # with accents, unlike [A-Za-z]
_VOWELS = regex.compile(r"[aeiouy]+")
_SENTENCE_END = regex.compile(r"[.!?]+(?=\s|$)")


def syllables(word: str) -> int:
    """Count groups of vowels, without a silent e at the end; at least one."""
    word = word.lower()
    groups = len(_VOWELS.findall(regex.sub(r"\p{M}", "", unicodedata.normalize("NFD", word))))
    silent = word.endswith("e") and not word.endswith(("le", "ee", "ye")) and groups > 1
    return max(groups - silent, 1)


def reading_ease(text: str) -> float:
    """Return the reading ease, from 0 (hard, or no word at all) to 121.22 (one syllable a word); plain English is about 60."""
    words = _WORD.findall(text)
    if not words:
        return 0.0
    sentences = sum(bool(_WORD.search(part)) for part in _SENTENCE_END.split(text))
    ease = 206.835 - 1.015 * len(words) / sentences - 84.6 * sum(map(syllables, words)) / len(words)
    return min(max(ease, 0.0), EASIEST)


class Readability:
    """Tens of points of reading ease, or minus that."""

    def __init__(self, target: Literal["easy", "hard"]) -> None:
        self.sign = 1 if target == "easy" else -1
        self.goal = f"towards text that is {target} to read"

    def score(self, samples: Sequence[str]) -> list[float]:
        """Return a value per text."""
        return [self.sign * reading_ease(text) / 10 for text in samples]


def readability(context: RewardContext, *, target: Literal["easy", "hard"] = "easy") -> Readability:
    """Make the reward; `context` is not needed, for there is no model."""
    return Readability(target)
