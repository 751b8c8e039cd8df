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


def even_shift(log_odds: Tensor, labels: Sequence[int]) -> float:
    """What to take from the log-odds, in nats, so that they are for a text that is as likely of label 1 as of label 0.

    Under it the labels are likeliest where both have the same weight together, which is where the mean probabilities of the texts
    of label 1 and of label 0 add up to one. Both labels must occur.
    """
    values, truth = log_odds.double(), torch.tensor(labels, dtype=torch.bool)
    low, high = float(values.min()) - 1, float(values.max()) + 1
    for _ in range(60):
        middle = (low + high) / 2
        p = (values - middle).sigmoid()
        low, high = (middle, high) if p[truth].mean() + p[~truth].mean() > 1 else (low, middle)
    return (low + high) / 2
