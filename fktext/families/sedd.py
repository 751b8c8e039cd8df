"""SEDD: a masked diffusion whose network gives scores (Lou et al. 2024, arXiv 2310.16834)."""

from __future__ import annotations

from typing import Any

from fktext.families.checkpoint import Checkpoint
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
        """Give SEDD's settings under MDLM's names."""
        from fktext.masked import sedd

        return sedd.settings(checkpoint.settings, checkpoint.path)

    def usual_frame(self, words: Words) -> Frame:
        """See `Family`; SEDD was trained on texts without a first token."""
        return Frame(end=self._end(words))
