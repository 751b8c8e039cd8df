"""SEDD: a masked diffusion whose network gives scores (Lou et al. 2024, arXiv 2310.16834)."""

from __future__ import annotations

from typing import Any

from fktext.errors import ModelError
from fktext.families.checkpoint import Checkpoint, mdlm_names
from fktext.families.family import CONFIDENCE, REMASKING
from fktext.families.mdlm import MDLM
from fktext.families.words import Frame, Words


class SEDD(MDLM):
    """The absorbing SEDD, on MDLM's network with live noise level."""

    name = "sedd"
    looks = "SEDD's graph and tokens"
    steps = 128
    kernels = ("sedd-analytic", "sedd-normalised", *REMASKING, *CONFIDENCE)

    def recognises(self, checkpoint: Checkpoint) -> bool:
        """See `Family`."""
        return "graph" in checkpoint.settings and "tokens" in checkpoint.settings

    def settings(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Give SEDD's settings under MDLM's names.

        Raises:
            ModelError: it is another SEDD than the published absorbing ones, or malformed.
        """
        config, source = checkpoint.settings, checkpoint.path
        parts = {name: config.get(name) or {} for name in ("graph", "noise", "model")}
        for name, part in parts.items():
            if not isinstance(part, dict):
                raise ModelError(f"{source} has {name} {part!r} in its config.json, expected an object")
        if not isinstance(config.get("tokens", 0), int):
            raise ModelError(f"{source} has tokens {config['tokens']!r} in its config.json, expected a whole number")
        for name, found, needed in (
            ("graph.type", parts["graph"].get("type"), "absorb"),
            ("noise.type", parts["noise"].get("type"), "loglinear"),
            ("model.scale_by_sigma", parts["model"].get("scale_by_sigma"), True),
        ):
            if found != needed:
                raise ModelError(f"{source} has {name} {found!r}; only SEDD models with {needed!r} are known")
        sizes = mdlm_names(parts["model"]) | {"time_conditioning": True}
        return sizes | ({"vocab_size": config["tokens"] + 1} if "tokens" in config else {})

    def usual_frame(self, words: Words) -> Frame:
        """See `Family`; SEDD was trained on texts without a first token."""
        return Frame(end=self._end(words))
