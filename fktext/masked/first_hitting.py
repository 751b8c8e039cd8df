"""Sample masked diffusion in continuous time, one token after another: the first-hitting sampler.

Without a grid every masked position has its own reveal time, uniform on (0, 1), and no two are equal. Going from one such time to
the next is the exact limit of ever more steps (Zheng et al. 2024, arXiv 2409.02908, section 4), at one network row per token. Steps
only say when particles may be weighed.
"""

from __future__ import annotations

from torch import Tensor

from fktext.masked.process import MaskedDiffusion


class FirstHitting(MaskedDiffusion):
    """Reveal one position at a time, the network asked at that very time; see `MaskedDiffusion`."""

    def _moment(self, step: Tensor, when: Tensor) -> Tensor:
        return when
