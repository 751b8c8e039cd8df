"""Special tokens of a model: those its section names, and those its family has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Words:
    """Which tokens of a model begin, end, pad and mask its sequences, and which it may never write."""

    def __init__(self, tokenizer: Tokenizer, folder: Path, settings: Mapping[str, Any], family: str) -> None:
        from fktext.files.weights import read_json

        self._tokenizer = tokenizer
        self._folder = folder
        self._family = family
        self._names = read_json(folder / "tokenizer_config.json")
        self.section: dict[str, Any] = settings.get("fktext") or {}
        self.closing: int | None = None
        self.pad: int | None = None
        self.start: int | None = None
        if family == "ssdlm":
            self.start = self._first("bos_token", "<s>", "[CLS]")
            self.bos, self.end, self.pad = (self._named(key) for key in ("bos_token", "end_token", "pad_token"))
        elif family == "mlm" and not self.section:
            # As the tokenizer frames a sentence, such as [CLS] ... [SEP]; the end is fixed at the last position.
            frame = tokenizer.encode("").ids
            self.bos = frame[0] if frame else None
            self.end = self.closing = frame[-1] if len(frame) > 1 else None
        elif family in ("dit", "sedd") and not self.section:
            # SEDD was trained on texts without a first token.
            self.bos = self._first("bos_token", "<|endoftext|>", "[CLS]", "<s>") if family == "dit" else None
            self.end = self._first("eos_token", "<|endoftext|>", "[SEP]", "</s>")
        elif not self.section:
            frame = tokenizer.encode("").ids
            self.bos = frame[0] if frame else None
            self.end = self._first("eos_token")
            self.pad = self._first("pad_token")
        else:
            self.bos, self.end, self.pad = (self._named(key) for key in ("bos_token", "end_token", "pad_token"))

    @property
    def tied(self) -> bool:
        """Whether an SSD-LM takes RoBERTa's word embeddings in the place of an `embed_sum_layer.pt`."""
        return bool(self.section.get("tie_embed_sum", False))

    @property
    def mask(self) -> int:
        """The tokenizer's own mask token."""
        if (mask := self._first("mask_token", "[MASK]", "<mask>")) is None:
            raise ModelError(f"the tokenizer of {self._folder} has no mask token")
        return mask

    def check(self, vocab_size: int, source: str) -> None:
        """Whether tokenizer and network can belong together."""
        size = self._tokenizer.get_vocab_size()
        # Networks round their vocabulary up; MDLM's and SEDD's add exactly the mask.
        least = vocab_size - (1 if self._family in ("dit", "sedd") else vocab_size // 20)
        if not least <= size <= vocab_size:
            raise ModelError(
                f"{source}: the tokenizer has {size} tokens, which contradicts the network's vocabulary of {vocab_size}"
            )

    def forbidden(self, mask: int, vocab_size: int) -> tuple[int, ...]:
        """Sorted ids that p(x0) never gives mass."""
        if self._family == "ssdlm":
            return ()  # a simplex has all corners
        pieces = self._tokenizer.get_vocab(with_added_tokens=True).values()
        never = {mask, *(set(range(vocab_size)) - set(pieces))}
        if self._family == "mlm":
            special = {index for index, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
            never |= special - ({self.end, self.pad} if self.section else set())
        return tuple(sorted(never))

    def _named(self, key: str) -> int | None:
        """A token that config.json's `fktext` section names."""
        if (token := self.section.get(key)) is None:
            return None
        if (index := self._tokenizer.token_to_id(token)) is None:
            raise ModelError(f"{self._folder / 'config.json'} names {key} {token!r}, which its tokenizer does not have")
        return int(index)

    def _first(self, key: str, *known: str) -> int | None:
        """A token that tokenizer_config.json names, or the first of the well-known ones that the tokenizer has."""
        own = self._names.get(key)
        own = own.get("content") if isinstance(own, dict) else own
        found = (self._tokenizer.token_to_id(token) for token in ([own] if own else known))
        return next((int(index) for index in found if index is not None), None)
