"""How far a judge's probabilities are from frequencies: rewards are their logarithms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

BINS = 10


def calibration_error(log_odds: Tensor, labels: Sequence[int]) -> float:
    """The expected calibration error: the mean distance of probability and frequency over bins of equal width.

    Sum over the bins of (share of the texts) x |mean p - share of label 1|, p being the probability of label 1 (Guo et al. 2017,
    arXiv 1706.04599, for two classes).

    Args:
        log_odds: (n,) in nats.
        labels: n of 0 and 1.

    Returns:
        0 where every bin's probability is its frequency, at most 1.
    """
    p, truth = log_odds.double().sigmoid(), torch.tensor(labels, dtype=torch.float64)
    place = (p * BINS).long().clamp(max=BINS - 1)
    gaps = torch.zeros(BINS, dtype=torch.float64).index_add(0, place, p - truth)
    return float(gaps.abs().sum() / len(p))


def best_scale(log_odds: Tensor, labels: Sequence[int]) -> float:
    """The factor on the log-odds (temperature scaling, Guo et al. 2017) under which the labels are likeliest, of 1/4 to 4."""
    truth, scales = torch.tensor(labels, dtype=torch.float64), torch.logspace(-2, 2, 201, base=2, dtype=torch.float64)
    losses = [functional.binary_cross_entropy_with_logits(scale * log_odds.double(), truth) for scale in scales]
    return float(scales[torch.stack(losses).argmin()])
