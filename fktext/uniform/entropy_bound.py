"""Entropy-bounded unmasking of canvases: DiffusionGemma's own decoder (Ben-Hamu et al. 2025, arXiv 2505.24857).

Every step draws a token at each position, from p at a temperature that falls from step to step. It keeps those of the positions
that the network is surest of, as many as leave their joint entropy bounded, and puts uniform noise in the place of all others. The
finished canvas is the likeliest token everywhere. Which tokens stay depends on what the network thinks of them, so the texts follow
no law of the model, and are not steered. The published decoder also stops a canvas early where nothing changes any more; here all
steps are taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fktext.masked.sampling import draw_tokens, token_probs
from fktext.uniform.canvas import CanvasDiffusion, CanvasState
from fktext.uniform.process import anything, heads


class EntropyBound(CanvasDiffusion):
    """Keep the surest tokens of a canvas, and renew the others.

    Args:
        bound: of the summed entropy of what is kept beside the least sure of it, in nats.
        first, last: temperatures of p at the beginning, and what it falls towards.
        settings: those of `CanvasDiffusion`; its temperature is a factor of these.
    """

    def __init__(self, *args: Any, bound: float = 0.1, first: float = 0.8, last: float = 0.4, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._bound, self._first, self._last = bound, first, last

    def _move(self, state: CanvasState, step: int, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """See `CanvasDiffusion`; the last step of a canvas returns its likeliest tokens."""
        inside = step % self._steps
        temperature = (self._last + (self._first - self._last) * (1 - inside / self._steps)) * self._temperature
        row, column = self._live(state.text)[:, None].expand(state.canvas.shape).nonzero(as_tuple=True)
        drawn, likeliest, soft = state.canvas.clone(), state.canvas.clone(), torch.zeros_like(state.soft)
        entropy = torch.zeros(drawn.shape, device=drawn.device)
        for part, logits in heads(self.network, state.hidden[row, column], self.ledger):
            at = row[part], column[part]
            probs = token_probs(logits, self._forbidden, temperature, self._top_p)
            drawn[at] = draw_tokens(probs, uniforms[at[0], :, at[1]])[:, 0]
            likeliest[at] = probs.argmax(-1)
            entropy[at] = torch.special.entr(probs / probs.sum(-1, keepdim=True)).sum(-1)
            soft[at] = self.network.embed(logits / temperature)
        if inside + 1 == self._steps:
            return likeliest, soft
        noise = anything(uniforms[:, 0, self._size :], self.network.vocab_size)
        return torch.where(kept(entropy, self._bound), drawn, noise), soft


def kept(entropy: Tensor, bound: float) -> Tensor:
    """Tell which positions a step keeps, (M, C) bool: the surest, while the entropies before each sum up to at most `bound`.

    Example:
        >>> kept(torch.tensor([[0.3, 0.02, 0.06, 0.1]]), 0.1).tolist()
        [[False, True, True, True]]
    """
    ordered, order = entropy.sort(stable=True, dim=-1)
    return torch.zeros_like(order, dtype=torch.bool).scatter(-1, order, ordered.cumsum(-1) - ordered <= bound)
