"""Weight algebra of sequential Monte Carlo, in log space, one row per population."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp(log_w: Tensor, dim: int = -1) -> Tensor:
    """Return log((1/N) sum exp(log_w)) along `dim`; -inf where every entry is -inf.

    Example:
        >>> log_mean_exp(torch.tensor([0.0, -torch.inf]))
        tensor(-0.6931)
    """
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


def log_normalize(log_w: Tensor) -> Tensor:
    """Shift log-weights (B, N) so that each row's weights sum to one; a row of -inf stays one."""
    return torch.log_softmax(log_w, -1).masked_fill(all_dead(log_w)[..., None], -torch.inf)


def normalize(log_w: Tensor) -> Tensor:
    """Map (B, N) log-weights to weights that sum to one in each row; -inf becomes zero, even in a whole row."""
    return torch.softmax(log_w, -1).masked_fill(all_dead(log_w)[..., None], 0.0)


def ess(log_w: Tensor) -> Tensor:
    """Return the effective sample size, (sum w)^2 / sum w^2, of each population.

    Args:
        log_w: (B, N) unnormalised log-weights in nats; -inf allowed.

    Returns:
        (B,) in [1, N]: N when all weights are equal, 1 when one particle has all (Kong 1992); 0 where no particle has any.

    Example:
        >>> ess(torch.zeros(1, 4))
        tensor([4.])
    """
    size = torch.exp(2 * torch.logsumexp(log_w, -1) - torch.logsumexp(2 * log_w, -1)).clamp(1, log_w.shape[-1])
    return size.masked_fill(all_dead(log_w), 0.0)


def all_dead(log_w: Tensor) -> Tensor:
    """Tell (B,) where no particle of the population has a positive weight."""
    return (log_w == -torch.inf).all(-1)
