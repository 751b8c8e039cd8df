"""Special tokens of a model: those that its section in config.json names, and those that its family has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Frame:
    """Tokens around a model's texts, None where it has none.

    Attributes:
        bos: every sequence starts with it.
        end: it ends a text.
        pad: it may follow `end`.
        closing: it is fixed at the last position.
        start: the whole context where there is no prompt, of a model that needs one.
    """

    bos: int | None = None
    end: int | None = None
    pad: int | None = None
    closing: int | None = None
    start: int | None = None


class Words:
    """The tokens of a tokenizer by what they are for.

    Args:
        tokenizer: the model's.
        folder: with its files, for errors.
        section: what config.json says to fktext.
        names: tokens by their use, such as "mask_token", as tokenizer_config.json has them.
    """

    def __init__(self, tokenizer: Tokenizer, folder: Path, section: Mapping[str, Any], names: Mapping[str, Any]) -> None:
        self.tokenizer, self.folder, self.section = tokenizer, folder, section
        self._names = names

    @property
    def mask(self) -> int:
        """The tokenizer's own mask token."""
        if (mask := self.first("mask_token", "[MASK]", "<mask>")) is None:
            raise ModelError(f"the tokenizer of {self.folder} has no mask token")
        return mask

    @cached_property
    def ids(self) -> frozenset[int]:
        """All that are tokens."""
        return frozenset(self.tokenizer.get_vocab(with_added_tokens=True).values())

    @cached_property
    def special(self) -> frozenset[int]:
        """Those that are no text."""
        return frozenset(index for index, token in self.tokenizer.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def _around(self) -> list[int]:
        return list(self.tokenizer.encode("").ids)

    @property
    def own(self) -> Frame:
        """The frame that config.json's section names."""
        return Frame(*(self.named(key) for key in ("bos_token", "end_token", "pad_token")))

    @property
    def before(self) -> int | None:
        """What the tokenizer puts before a text."""
        return self._around[0] if self._around else None

    @property
    def behind(self) -> int | None:
        """What it puts behind one."""
        return self._around[-1] if len(self._around) > 1 else None

    def named(self, key: str) -> int | None:
        """Find the token that config.json's section names."""
        if (token := self.section.get(key)) is None:
            return None
        if (index := self.tokenizer.token_to_id(token)) is None:
            raise ModelError(f"{self.folder / 'config.json'} names {key} {token!r}, which its tokenizer does not have")
        return int(index)

    def first(self, key: str, *known: str) -> int | None:
        """Find the token that tokenizer_config.json names, or the first of the well-known ones that the tokenizer has."""
        own = self._names.get(key)
        own = own.get("content") if isinstance(own, dict) else own
        found = (self.tokenizer.token_to_id(token) for token in ([own] if own else known))
        return next((int(index) for index in found if index is not None), None)
