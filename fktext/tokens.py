"""The tokens a text was written in, for a judge that reads the same ones and so need not read the text."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Tokens:
    """Tokens of a text, without the special ones around it.

    A tokenizer need not write the text in these very tokens: a model that generates "giant" and "##s" has written "giants", which
    may be one token. A judge that takes them as they are says how likely the model's own spelling is.

    Attributes:
        ids: of the prompt and what follows it.
        prompt: how many of them are the prompt's.
        vocabulary: whose ids they are, see `vocabulary_digest`.
    """

    ids: tuple[int, ...]
    prompt: int
    vocabulary: str


def vocabulary_digest(vocabulary: Mapping[str, int]) -> str:
    """First 16 hex digits of the sha256 over a tokenizer's tokens and their ids: equal where ids mean the same.

    Example:
        >>> vocabulary_digest({"a": 0, "b": 1}) == vocabulary_digest({"b": 1, "a": 0})
        True
    """
    total = hashlib.sha256()
    for token, index in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        total.update(f"{index} {token}\n".encode())
    return total.hexdigest()[:16]
