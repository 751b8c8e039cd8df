"""Draw tokens from logits: temperature, nucleus, inverse CDF in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from fktext.errors import ModelError

BLOCK = 256  # tokens summed together by `draw_tokens`; about the square root of the largest vocabularies


def token_probs(logits: Tensor, forbidden: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Return p(x0) at some positions, after temperature and nucleus, before any mixing with the mask.

    Args:
        logits: (R, V) raw logits of any float dtype.
        forbidden: (F,) int64 ids that get probability zero, the mask among them.
        temperature: logits are divided by it; > 0.
        top_p: keep the likeliest tokens while the probability before them is below top_p, and all that are as likely as the last
            of them; the first is always kept.

    Returns:
        (R, V) float32 probabilities; rows sum to one unless top_p < 1 (`draw_tokens` does not need them to).
    """
    log_probs = logits.float().index_fill(-1, forbidden, -torch.inf)
    probs = torch.softmax(log_probs if temperature == 1 else log_probs.div_(temperature), -1)
    return probs if top_p >= 1 else probs.masked_fill_(probs < _least(probs, top_p), 0.0)


def _least(probs: Tensor, top_p: float, looked_at: int | None = None) -> Tensor:
    """Return the smallest probability in each row's nucleus, (R, 1).

    Args:
        probs: (R, V).
        top_p: see `token_probs`.
        looked_at: how many of the likeliest tokens to look at first. A nucleus is mostly small, and on a CPU sorting all costs more
            than the network does; a GPU is slowed down more by saying how many it is.
    """
    size = probs.shape[-1]
    count = min(size, looked_at or (max(1, size // 64) if probs.device.type == "cpu" else size))
    ordered = probs.topk(count).values if count < size else probs.sort(-1, descending=True).values
    inside = ordered.cumsum(-1) - ordered < top_p
    least = ordered.gather(-1, inside.sum(-1, keepdim=True).clamp(min=1) - 1)
    if count < size and len(further := inside[:, -1].nonzero()[:, 0]):
        least[further] = _least(probs[further], top_p, 8 * count)
    return least


def draw_tokens(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw tokens by inverse CDF, on two levels: first a block of BLOCK tokens, then a token of the block.

    Cumulative sums are in float64: float32 Gumbel noise cuts the tail of a large vocabulary (Zheng et al. 2024,
    arXiv 2409.02908). They run over the V / BLOCK sums and over one block, not over V. A block's own sum is in float32, as precise
    as the probabilities in it. A token of probability zero is never drawn.

    Args:
        probs: (R, V) probabilities, not necessarily normalised.
        uniforms: (R, S) float64 in (0, 1), one per draw.

    Returns:
        (R, S) int64 tokens.

    Raises:
        ModelError: a row holds NaN (on a GPU the device stops with the same message, without anybody waiting for it).
    """
    rows, size = probs.shape
    whole = size // BLOCK * BLOCK
    sums = torch.cat([probs[:, :whole].view(rows, whole // BLOCK, BLOCK).sum(-1), probs[:, whole:].sum(-1, keepdim=True)], 1)
    cumulative = sums.cumsum(-1, dtype=torch.float64)
    _check_finite(cumulative[:, -1])
    target = uniforms * cumulative[:, -1:]
    block = torch.searchsorted(cumulative, target, right=True)
    within = block[..., None] * BLOCK + torch.arange(min(BLOCK, size), device=probs.device)
    inside = torch.where(within < size, probs.gather(1, within.clamp(max=size - 1).flatten(1)).view(within.shape), 0.0)
    inside = inside.cumsum(-1, dtype=torch.float64)
    # What of the target lies in the block; the two sums of a block may differ in their last bits, so stay below the finer one.
    rest = target - pad(cumulative, (1, 0)).gather(1, block)
    rest = torch.minimum(rest, torch.nextafter(inside[..., -1], torch.zeros_like(rest)))
    return block * BLOCK + torch.searchsorted(inside, rest[..., None], right=True)[..., 0]


def _check_finite(sums: Tensor) -> None:
    """Refuse logits that are NaN or infinite: their sums are NaN."""
    message = "the model's logits are not finite: its weights are damaged or its dtype is too narrow; see `fktext models check`"
    try:
        torch._assert_async(~sums.isnan().any(), message)
    except RuntimeError as error:
        raise ModelError(message) from error
