"""LLaDA (Nie et al. 2025, arXiv 2502.09992) and Dream (Ye et al. 2025, arXiv 2508.15487), on transformers' own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fktext.errors import FktextError, ModelError, one_line
from fktext.families.checkpoint import Checkpoint
from fktext.families.family import Family
from fktext.families.words import Frame, Words

if TYPE_CHECKING:
    import torch

    from fktext.texts.model import Network


class LLM(Family):
    """A decoder of billions of parameters that was trained to unmask.

    Attributes:
        model_type: what its config.json calls it.
        longest: the entry of config.json that says how many tokens it takes.
        kind: what `fktext.masked.block_llm` calls its network; "" where `fktext.masked.llm` makes it.
        masks: what tokenizers call the mask, where no config.json has its id.
        ends: the tokens that end a text and that fill it up, or () where the tokenizer says it.
    """

    model_type: ClassVar[str]
    longest: ClassVar[str] = "max_position_embeddings"
    kind: ClassVar[str] = ""
    masks: ClassVar[tuple[str, ...]] = ()
    ends: ClassVar[tuple[str, ...]] = ()
    spreads = True

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        return checkpoint.settings.get("model_type") == self.model_type

    def most(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        from fktext.masked.dit import PUBLISHED_LENGTH

        return int(checkpoint.settings.get(self.longest) or PUBLISHED_LENGTH)

    def built(self, checkpoint: Checkpoint) -> str:
        """Tell `kind` of a checkpoint."""
        return self.kind

    def block(self, checkpoint: Checkpoint) -> int | None:
        """Tell how many tokens it writes at a time; None for all of a text."""
        return None

    def mask(self, checkpoint: Checkpoint, words: Words) -> int:
        """Tell its mask token.

        Raises:
            ModelError: there is none.
        """
        mask = checkpoint.settings.get("mask_token_id")
        if not isinstance(mask, int) and self.masks:  # the tokenizer's files may disagree on how it is written
            mask = next((found for key in ("mask_token", "") if (found := words.first(key, *self.masks)) is not None), None)
        if not isinstance(mask, int):
            also = f", and its tokenizer has no {' or '.join(self.masks)}" if self.masks else ""
            raise ModelError(f"{checkpoint.path / 'config.json'} names no mask_token_id{also}")
        return mask

    def usual_frame(self, words: Words) -> Frame:
        """See `Family`."""
        if not self.ends:
            return super().usual_frame(words)
        end, pad = (words.first("", token) for token in self.ends)
        return Frame(words.before, end, pad)

    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """See `Family`."""
        from fktext.masked import block_llm, llm

        source, block, mask = checkpoint.path / "config.json", self.block(checkpoint), self.mask(checkpoint, words)
        files, settings = checkpoint.files, checkpoint.settings
        try:
            if kind := self.built(checkpoint):
                return block_llm.load(kind, files, settings, mask, block, dtype, device, spread=spread)
            return llm.load(self.name, files, settings, mask, dtype, device, spread=spread)
        except (FktextError, MemoryError, OSError, RuntimeError):
            raise
        except Exception as error:  # what transformers' configurations raise is of many kinds
            raise ModelError(f"{source} does not describe a network of family {self.name!r}: {one_line(error)}") from error


class LLaDA(LLM):
    """LLaDA, a Llama with full attention."""

    name = model_type = "llada"
    looks = "model_type 'llada'"
    longest = "max_sequence_length"


class Dream(LLM):
    """Dream, a Qwen2 with full attention whose logits are shifted by one position."""

    name = "dream"
    model_type = "Dream"
    looks = "model_type 'Dream'"
    tokenizer_class = "Qwen2TokenizerFast"  # its own is that under another name, which would be remote code
