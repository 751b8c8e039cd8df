"""DUO: uniform-state diffusion on MDLM's network (Sahoo et al. 2025, arXiv 2506.10892)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fktext.errors import ModelError
from fktext.families.checkpoint import Checkpoint
from fktext.families.mdlm import MDLM
from fktext.families.words import Frame, Words

if TYPE_CHECKING:
    import torch

    from fktext.texts.model import Network, TextModel


class DUO(MDLM):
    """DUO and its distilled variants: no mask token, and the noise level is live although no entry of config.json says so."""

    name = "duo"
    looks = "model_type 'duo'"
    steps = 128
    kernels = ("uniform-ancestral", "uniform-gibbs", "uniform-psi", "uniform-greedy-tail")
    chats = False

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`; published copies write the model type in upper and in lower case."""
        return str(checkpoint.settings.get("model_type")).lower() == "duo"

    def settings(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Give the network's settings, with live noise level.

        Raises:
            ModelError: the network is causal, the autoregressive baseline of DUO's code.
        """
        if checkpoint.settings.get("causal", False) is not False:
            raise ModelError(
                f"{checkpoint.path} has causal {checkpoint.settings['causal']!r} in its config.json: DUO's network sees both "
                "sides, and its autoregressive baseline is not known here"
            )
        return super().settings(checkpoint) | {"time_conditioning": True}

    def network(
        self, checkpoint: Checkpoint, words: Words, dtype: torch.dtype, device: torch.device, *, spread: bool = False
    ) -> Network:
        """See `Family`; what MDLM's network takes for its mask is a token like any other."""
        from fktext.uniform.model import UNWRITTEN

        network = super().network(checkpoint, words, dtype, device, spread=spread)
        network.mask_id = UNWRITTEN
        return network

    def forbidden(self, words: Words, frame: Frame, mask_id: int, vocab_size: int) -> set[int]:
        """See `Family`; the padding token is a state of the noise, as all are, and no part of a text."""
        tokens = words.ids
        if (padding := words.first("pad_token", "[PAD]")) not in (None, frame.end, frame.pad):
            tokens = tokens - {padding}
        return set(range(vocab_size)) - tokens

    def model(self, checkpoint: Checkpoint, frame: Frame, **common: Any) -> TextModel:
        """See `Family`."""
        from fktext.uniform.model import UniformModel

        return UniformModel(**common)
