"""A generated text, with the prompt it continues and the tokens it was written in, which a judge may read instead."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Text", "Tokens", "vocabulary_digest", "well_formed"]


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
    """Return the first 16 hex digits of the sha256 over a tokenizer's tokens and their ids: equal where ids mean the same.

    Example:
        >>> vocabulary_digest({"a": 0, "b": 1}) == vocabulary_digest({"b": 1, "a": 0})
        True
    """
    total = hashlib.sha256()
    for token, index in sorted(vocabulary.items(), key=lambda item: (item[1], item[0])):
        total.update(f"{index} {token}\n".encode())
    return total.hexdigest()[:16]


class Text(str):
    """A generated text: a `str` that also knows the prompt it continues ("" where there is none or it was a template).

    Attributes:
        prompt: what it begins with.
        tokens: those a model wrote it in, None where that is not known.
    """

    prompt: str
    tokens: Tokens | None

    def __new__(cls, text: str, prompt: str = "", tokens: Tokens | None = None) -> Text:
        """Make a string with its prompt."""
        self = super().__new__(cls, text)
        self.prompt, self.tokens = prompt, tokens
        return self

    @property
    def continuation(self) -> str:
        """The text after its prompt."""
        return self.removeprefix(self.prompt)


def well_formed(text: str) -> str:
    """Return the text as any tokenizer takes it: a lone surrogate, which is not a character, becomes U+FFFD.

    Example:
        >>> well_formed("a\\ud800") == "a\\ufffd"
        True
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return str(text)
