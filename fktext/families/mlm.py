"""Any masked language model of transformers, such as BERT, RoBERTa and ModernBERT; `tiny-mdlm` is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError, one_line
from fktext.families.checkpoint import Checkpoint
from fktext.families.family import Family
from fktext.families.words import Frame, Words

if TYPE_CHECKING:
    import torch

    from fktext.texts.model import Network


class MaskedLM(Family):
    """A folder that `AutoModelForMaskedLM` loads."""

    name = "mlm"
    looks = "an architecture that ends in ForMaskedLM"
    length = 32
    steps = 64

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        return any(str(item).endswith("ForMaskedLM") for item in checkpoint.settings.get("architectures") or [])

    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """See `Family`."""
        from fktext.masked import mlm

        return mlm.load(checkpoint.path, words.mask).to(device, dtype)

    def most(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        from fktext.masked.mlm import positions

        return positions(outline(checkpoint.path))

    def parameters(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        return sum(tensor.numel() for tensor in outline(checkpoint.path).parameters())

    def usual_frame(self, words: Words) -> Frame:
        """See `Family`; the tokenizer frames a sentence, such as [CLS] ... [SEP], and its end is fixed at the last position."""
        return Frame(words.before, words.behind, closing=words.behind)

    def forbidden(self, words: Words, frame: Frame, mask_id: int, vocab_size: int) -> set[int]:
        """See `Family`; special tokens too, but for those that a model trained to generate ends and pads its texts with."""
        written = {frame.end, frame.pad} if words.section else set()
        return super().forbidden(words, frame, mask_id, vocab_size) | (words.special - written)


def outline(folder: Path) -> Any:
    """Make the network of a folder without its weights: it knows which of its tensors are one.

    Raises:
        ModelError: transformers cannot tell from config.json what it is.
    """
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    try:
        with torch.device("meta"):
            return AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # transformers raises many kinds
        raise ModelError(f"{folder} cannot be described: {type(error).__name__}: {one_line(error)}") from error
