"""SSD-LM: simplex diffusion on RoBERTa, block by block (Han et al. 2023, arXiv 2210.17432); `tiny-ssdlm` is one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fktext.families.checkpoint import Checkpoint
from fktext.families.mlm import MaskedLM
from fktext.families.words import Frame, Words

if TYPE_CHECKING:
    import torch

    from fktext.texts.model import Network, TextModel


class SSDLM(MaskedLM):
    """RoBERTa with an embedding of simplexes and one of the noise time in files beside it."""

    name = "ssdlm"
    looks = ""  # what a masked language model is known by, and a file beside it
    length = 50
    steps = 500
    top_p = 0.95  # the nucleus of the published sampling projection
    kernels = ("simplex-sampling", "simplex-even", "simplex-uneven")
    layers = ("embed_sum_layer.pt", "timestep_layer.pt")
    chats = False

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        return super().recognises(checkpoint) and ("tie_embed_sum" in checkpoint.section or checkpoint.has(*self.layers))

    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """See `Family`; with `tie_embed_sum` RoBERTa's word embeddings serve in the place of `embed_sum_layer.pt`."""
        from fktext.simplex import ssdlm

        return ssdlm.load(checkpoint.path, tied=bool(checkpoint.section.get("tie_embed_sum", False))).to(device, dtype)

    def parameters(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        from fktext.files.weights import read_tensors

        layers = [checkpoint.folder / name for name in self.layers if checkpoint.has(name)]
        beside = sum(tensor.numel() for layer in layers for tensor in read_tensors(layer).values())
        return super().parameters(checkpoint) + beside

    def frame(self, words: Words) -> Frame:
        """See `Family`: a block is written after something, at least after the token that begins a text."""
        return replace(words.own, start=words.first("bos_token", "<s>", "[CLS]"))

    def forbidden(self, words: Words, frame: Frame, mask_id: int, vocab_size: int) -> set[int]:
        """See `Family`: a simplex has all corners."""
        return set()

    def model(self, checkpoint: Checkpoint, frame: Frame, **common: Any) -> TextModel:
        """See `Family`."""
        from fktext.simplex.model import BLOCK, SimplexModel

        return SimplexModel(**common, block=checkpoint.section.get("block", BLOCK), start_id=frame.start)
