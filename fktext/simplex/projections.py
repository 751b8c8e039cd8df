"""Project a block's logits to the clean simplex point that the next step starts from (Han et al. 2023, section 3.2).

A token is +K at itself and -K elsewhere. Each projection keeps a nucleus: the likeliest tokens while the probability before them is
below top_p, the first always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fktext.masked.sampling import draw_tokens, token_probs

K = 5.0
Projection = Callable[[Tensor, float, Tensor], Tensor]
"""(logits (R, V), top_p, uniforms (R, 1) float64) -> (R, V) simplex logits in [-K, K]."""


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Return (R, V) float32 probabilities inside the nucleus, zero outside, not normalised."""
    return token_probs(logits, torch.empty(0, dtype=torch.int64, device=logits.device), top_p=top_p)


def sampling(logits: Tensor, top_p: float, uniforms: Tensor) -> Tensor:
    """Put +K at one token drawn from the nucleus, -K elsewhere."""
    return one_hot(draw_tokens(nucleus(logits, top_p), uniforms)[:, 0], logits.shape[-1])


def even(logits: Tensor, top_p: float, uniforms: Tensor) -> Tensor:
    """Put +K on the whole nucleus, -K elsewhere; deterministic."""
    return torch.where(nucleus(logits, top_p) > 0, K, -K)


def uneven(logits: Tensor, top_p: float, uniforms: Tensor) -> Tensor:
    """Shift the nucleus' logits so that the highest is +K and cut them off at -K; -K elsewhere; deterministic."""
    shifted = (logits.float() - logits.float().amax(-1, keepdim=True) + K).clamp(min=-K)
    return torch.where(nucleus(logits, top_p) > 0, shifted, -K)


def one_hot(tokens: Tensor, vocab_size: int) -> Tensor:
    """Map (R,) tokens to (R, V), +K at the token and -K elsewhere."""
    out = torch.full((len(tokens), vocab_size), -K, device=tokens.device)
    return out.scatter_(1, tokens[:, None], K)


PROJECTIONS: Mapping[str, Projection] = {"sampling": sampling, "even": even, "uneven": uneven}
