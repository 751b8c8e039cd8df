"""Replay runs of reference implementations: their uniforms in the place of noise."""

from __future__ import annotations

import torch
from torch import Tensor

from fktext.smc import noise as streams


class Recorded:
    """The golden file's uniforms of a block in the place of noise."""

    def __init__(self, reveal: Tensor, token: Tensor, begin: int) -> None:
        steps = len(reveal)
        first = (reveal < (1 / torch.arange(steps, 0, -1))[:, None]).double().argmax(0)  # 1 - s/t of each step
        self.when, self.token, self.begin = 1 - (first + 0.5) / steps, token, begin

    def uniform(self, stream: int, step: Tensor | int, position: Tensor, rows: Tensor | None = None) -> Tensor:
        if stream == streams.REVEAL:
            return self.when[(position - self.begin).clamp(min=0)][None]
        assert stream == streams.TOKEN
        return self.token[step - 1, position - self.begin]
