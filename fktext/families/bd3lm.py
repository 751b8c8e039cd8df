"""BD3-LM: MDLM's network trained by block diffusion (Arriola et al. 2025, arXiv 2503.09573)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError
from fktext.families.blocks import ByBlocks
from fktext.families.checkpoint import Checkpoint
from fktext.families.mdlm import MDLM

if TYPE_CHECKING:
    from torch import Tensor

_TRAINING = frozenset({"sampling_eps_min", "sampling_eps_max"})  # bounds of the mask rates it was trained with


class BD3LM(ByBlocks, MDLM):
    """BD3-LM from the hub's files or a Lightning checkpoint; its own sampler is first-hitting inside a block."""

    name = "bd3lm"
    looks = "model_type 'bd3lm'"
    steps = 128
    kernels = ("first-hitting", "ancestral", "any-order")

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        return checkpoint.settings.get("model_type") == "bd3lm"

    def settings(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Give the network's settings under MDLM's names.

        Raises:
            ModelError: no block size, one that does not fit the length, or another network than the published ones.
        """
        from fktext.masked.dit import PUBLISHED_LENGTH

        config, source = checkpoint.settings, checkpoint.path
        for name, needed in (("causal", False), ("time_conditioning", False), ("adaln", True)):
            if config.get(name, needed) is not needed:
                raise ModelError(f"{source} has {name} {config[name]!r} in its config.json; only BD3-LM with {needed!r} is known")
        block, length = config.get("block_size"), config.get("model_length", PUBLISHED_LENGTH)
        if type(block) is not int or not 0 < block <= length or length % block:
            raise ModelError(
                f"{source} has block_size {block!r} in its config.json, expected a whole number that divides its "
                f"model_length {length}"
            )
        if config.get("cross_attn", True) is not True and block < length:
            raise ModelError(
                f"{source} has cross_attn {config['cross_attn']!r} in its config.json: only with True was it trained on blocks "
                f"of {block} after finished ones"
            )
        return dict(config)

    def tensors(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """See `MDLM`; without what only training needs."""
        return {name: tensor for name, tensor in super().tensors(checkpoint).items() if name not in _TRAINING}

    def parameters(self, checkpoint: Checkpoint) -> int:
        """See `Family`."""
        return super().parameters(checkpoint) - len(_TRAINING.intersection(checkpoint.tensor_names))

    def block(self, checkpoint: Checkpoint) -> int:
        """See `ByBlocks`."""
        return int(self.settings(checkpoint)["block_size"])
