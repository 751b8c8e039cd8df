"""E2D2: block diffusion in which an encoder reads finished blocks and a decoder writes (Arriola et al. 2025, arXiv 2510.22852)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fktext.errors import ModelError
from fktext.families.blocks import ByBlocks, block_of
from fktext.families.checkpoint import Checkpoint
from fktext.families.words import Words

if TYPE_CHECKING:
    import torch

    from fktext.texts.model import Network


class E2D2(ByBlocks):
    """Both kinds of E2D2: the decoder sees the encoder's output, or its keys and values."""

    name = "e2d2"
    looks = "model_type 'e2d2'"
    chats = False

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        return checkpoint.settings.get("model_type") == "e2d2"

    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """See `Family`."""
        from fktext.masked import e2d2

        if not isinstance(checkpoint.settings.get("mask_token_id"), int):
            raise ModelError(f"{checkpoint.path / 'config.json'} names no mask_token_id")
        if not 0 <= checkpoint.settings["mask_token_id"] < checkpoint.settings.get("vocab_size", math.inf):
            raise ModelError(f"{checkpoint.path} has mask_token_id {checkpoint.settings['mask_token_id']} outside its vocabulary")
        self.most(checkpoint)
        return e2d2.load(checkpoint.files, checkpoint.settings, self.block(checkpoint), dtype, device)

    def most(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        length = checkpoint.settings.get("length")
        if type(length) is not int or length < 2:
            raise ModelError(f"{checkpoint.path} has length {length!r} in its config.json, expected a whole number from 2")
        return length

    def block(self, checkpoint: Checkpoint) -> int:
        """See `ByBlocks`; no published config.json is without."""
        return block_of(checkpoint, self.most(checkpoint), 0)

    def parameters(self, checkpoint: Checkpoint) -> int:
        """See `Family`; a checkpoint whose networks have the same weights repeats them."""
        from fktext.files.weights import tensor_shapes

        shapes = {name: shape for file in checkpoint.files for name, shape in tensor_shapes(file).items()}
        tied = (checkpoint.settings.get("backbone_config") or {}).get("tie_encoder_decoder_weights")
        once = {name: shape for name, shape in shapes.items() if "lm_head" not in name and not (tied and ".decoder." in name)}
        return sum(math.prod(shape) for shape in once.values())
