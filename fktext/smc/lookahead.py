"""Estimate the log-tilt of an unfinished particle from predictions of x0: what it is thought to become.

The ideal intermediate potential is h(x_t) = E[exp(lambda r(x0)) | x_t]. A mean over a few predictions estimates it, and an estimate
may be wrong by any factor but one: it must never be zero where h is positive. A particle of weight zero is not resampled, so what
it might have become is lost, and the weights of the others do not make up for it. A reward of -inf (a hard constraint) makes such
zeros: four predictions that all fail do not prove that the finished sample will. So the mean is smoothed with a pseudo-count, as a
rate is that is estimated from few trials, and -inf is left to the last weighing, which judges the finished sample itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fktext.smc import log_mean_exp

PSEUDO_COUNT = 0.1


def log_tilt(weighted: Tensor, lam: float, pseudo_count: float, *, average: str = "tilt") -> tuple[Tensor, Tensor]:
    """Estimate log E[exp(lambda r(x0)) | x_t] of each particle from S predictions, finite whatever the rewards say.

    With c = `pseudo_count` the estimate is

        (sum_s exp(lambda r_s) + c * mean_s exp(lambda f_s)) / (S + c),

    where f_s is r_s with every term of -inf replaced by the lowest finite value which that term has in the population at this
    weighing, or left out where it has none. In words: c more predictions, which resemble the particle's own and just meet the
    constraints. Where all of a particle's predictions are finite, f = r, and the estimate is their plain mean, bit for bit. For
    a reward that is 0 or -inf and is met by h of S predictions it is (h + c) / (S + c).

    Args:
        weighted: (B, N, S, P) float64, each of P rewards times its weight, for each of S predictions; finite or -inf.
        lam: lambda.
        pseudo_count: c > 0. Small values trust the predictions; 0 is the plain mean, which kills particles that may still end well:
            it is there for the tests, to show the bias.
        average: "tilt" averages exp(lambda r) as above, "reward" averages exp(r) and multiplies its logarithm by lambda.

    Returns:
        (B, N) log-tilts in nats; and (B,) which populations they tell anything of: those with a finite value of some reward.
    """
    inside, outside = (lam, 1.0) if average == "tilt" else (1.0, lam)
    total, failed = weighted.sum(-1), weighted == -torch.inf
    plain = log_mean_exp(inside * total)
    told = ~failed.flatten(1).all(-1)
    fails = failed.any(-1).any(-1)  # (B, N)
    if pseudo_count == 0 or not fails.any():
        return outside * plain, told
    lowest = weighted.masked_fill(failed, torch.inf).amin((1, 2), keepdim=True)
    filled = torch.where(failed, lowest.masked_fill(lowest == torch.inf, 0.0), weighted).sum(-1)
    predictions = total.shape[-1]
    seen, unseen = plain + math.log(predictions), log_mean_exp(inside * filled) + math.log(pseudo_count)
    smoothed = torch.logaddexp(seen, unseen) - math.log(predictions + pseudo_count)
    return outside * torch.where(fails, smoothed, plain), told
