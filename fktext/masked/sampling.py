"""Drawing tokens from logits: temperature, nucleus, inverse CDF in float64."""

from __future__ import annotations

import torch
from torch import Tensor


def token_probs(logits: Tensor, forbidden: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """p(x0) at some positions, after temperature and nucleus, before any mixing with the mask.

    Args:
        logits: (R, V) raw logits of any float dtype.
        forbidden: (F,) int64 ids that get probability zero, the mask among them.
        temperature: logits are divided by it; > 0.
        top_p: keep the likeliest tokens while the probability before them is below top_p; the first is always kept.

    Returns:
        (R, V) float32 probabilities; rows sum to one unless top_p < 1 (`draw_tokens` does not need them to).
    """
    log_probs = logits.float().index_fill(-1, forbidden, -torch.inf)
    probs = torch.softmax(log_probs / temperature, -1)
    if top_p < 1:
        ordered, order = probs.sort(-1, descending=True)
        outside = ordered.cumsum(-1) - ordered >= top_p
        outside[:, 0] = False
        probs = probs.masked_fill(torch.zeros_like(outside).scatter_(-1, order, outside), 0.0)
    return probs


def draw_tokens(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Categorical draws by inverse CDF.

    The cumulative sum is in float64: float32 Gumbel noise cuts the tail of a large vocabulary (Zheng et al. 2024,
    arXiv 2409.02908).
    A token of probability zero is never drawn.

    Args:
        probs: (R, V) probabilities, not necessarily normalised.
        uniforms: (R, S) float64 in (0, 1), one per draw.

    Returns:
        (R, S) int64 tokens.
    """
    cumulative = probs.cumsum(-1, dtype=torch.float64)
    return torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
