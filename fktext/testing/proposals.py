"""An enumerable model whose tokens are drawn by proposals that have nothing to do with its reward: its law stays as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fktext.masked.guided import Guided
from fktext.testing.enumerable import Enumerable


class Arbitrary:
    """Score tokens by numbers between -2 and 2 that depend on the whole particle; see `fktext.masked.guided.Scores`."""

    def __init__(self, vocab_size: int) -> None:
        self._tokens = vocab_size

    def slopes(self, ids: Tensor, t: Tensor) -> Tensor:
        """Map (R, L) ids to (R, L, V)."""
        place = torch.arange(ids.shape[1], device=ids.device)
        particle = (ids * (place + 1)).sum(1, keepdim=True) + place
        return 2 * ((particle[..., None] + 1) * 37.7 + torch.arange(self._tokens, device=ids.device) * 11.3).sin()

    def scores(self, slopes: Tensor) -> Tensor:
        """Return (P, V) of (P, V)."""
        return slopes


class GuidedEnumerable(Enumerable):
    """The enumerable model, moved by arbitrary proposals.

    Args:
        corrected: whether the weights make up for them. If not, steering aims at another law than `tilted`.
        settings: of `Enumerable`.
    """

    def __init__(self, *, corrected: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self._corrected = corrected

    def process(self, populations: int, particles: int, **settings: Any) -> Any:
        """See `Enumerable`."""
        scores = Arbitrary(self.denoiser.vocab_size)
        return Guided(super().process(populations, particles, **settings), scores, 1.0, corrected=self._corrected)
