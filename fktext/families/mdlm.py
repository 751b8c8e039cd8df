"""MDLM: a diffusion transformer trained by masked diffusion (Sahoo et al. 2024, arXiv 2406.07524)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fktext.families.checkpoint import Checkpoint
from fktext.families.family import Family
from fktext.families.words import Frame, Words

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from fktext.texts.model import Network


class MDLM(Family):
    """MDLM from the hub's files, a Lightning checkpoint, or weights alone; the defaults are those of the Feynman-Kac paper."""

    name = "dit"
    looks = "model_type 'mdlm' (without a config.json: for MDLM's tensor names or a Lightning .ckpt)"
    steps = 1000
    tokenizers = ("gpt2", "openai-community/gpt2")  # its repositories leave the tokenizer to GPT-2's: old name, present name

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        if (kind := checkpoint.settings.get("model_type")) == "mdlm" or (checkpoint.is_lightning and kind is None):
            return True
        return not checkpoint.settings and any(name.endswith("vocab_embed.embedding") for name in checkpoint.tensor_names)

    def settings(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Give the network's settings under MDLM's names."""
        return dict(checkpoint.settings)

    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """See `Family`."""
        from fktext.masked import dit

        settings = self.settings(checkpoint)
        model = dit.from_tensors(self.tensors(checkpoint), settings, checkpoint.path)
        return model.eval().requires_grad_(False).to(device, dtype)

    def tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """Read the network's tensors, by the names they have in the files."""
        from fktext.files.weights import read_tensors

        return {name: tensor for file in checkpoint.files for name, tensor in read_tensors(file).items()}

    def most(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        from fktext.masked.dit import PUBLISHED_LENGTH

        return int(self.settings(checkpoint).get("model_length", PUBLISHED_LENGTH))

    def usual_frame(self, words: Words) -> Frame:
        """See `Family`."""
        return Frame(words.first("bos_token", "<|endoftext|>", "[CLS]", "<s>"), self._end(words))

    def _end(self, words: Words) -> int | None:
        return words.first("eos_token", "<|endoftext|>", "[SEP]", "</s>")

    def spare(self, vocab_size: int) -> int:
        """See `Family`; exactly the mask is added."""
        return 1
