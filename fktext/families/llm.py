"""LLaDA (Nie et al. 2025, arXiv 2502.09992) and Dream (Ye et al. 2025, arXiv 2508.15487), on transformers' own classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fktext.errors import FktextError, ModelError, one_line
from fktext.families.checkpoint import Checkpoint
from fktext.families.family import Family
from fktext.families.words import Words

if TYPE_CHECKING:
    import torch

    from fktext.texts.model import Network


class _LLM(Family):
    """A decoder of billions of parameters that was trained to unmask.

    Attributes:
        model_type: what its config.json calls it.
        longest: the entry of config.json that says how many tokens it takes.
    """

    model_type: ClassVar[str]
    longest: ClassVar[str]
    spreads = True

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        return checkpoint.settings.get("model_type") == self.model_type

    def most(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        from fktext.masked.dit import PUBLISHED_LENGTH

        return int(checkpoint.settings.get(self.longest, PUBLISHED_LENGTH))

    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """See `Family`."""
        from fktext.masked import llm

        source, mask = checkpoint.path / "config.json", checkpoint.settings.get("mask_token_id")
        if not isinstance(mask, int):
            raise ModelError(f"{source} names no mask_token_id")
        try:
            return llm.load(self.name, checkpoint.files, checkpoint.settings, mask, dtype, device, spread=spread)
        except (FktextError, MemoryError, OSError, RuntimeError):
            raise
        except Exception as error:  # what transformers' configurations raise is of many kinds
            raise ModelError(f"{source} does not describe a network of family {self.name!r}: {one_line(error)}") from error


class LLaDA(_LLM):
    """LLaDA, a Llama with full attention."""

    name = model_type = "llada"
    looks = "model_type 'llada'"
    longest = "max_sequence_length"


class Dream(_LLM):
    """Dream, a Qwen2 with full attention whose logits are shifted by one position."""

    name = "dream"
    model_type = "Dream"
    looks = "model_type 'Dream'"
    longest = "max_position_embeddings"
    tokenizer_class = "Qwen2TokenizerFast"  # its own is that under another name, which would be remote code
