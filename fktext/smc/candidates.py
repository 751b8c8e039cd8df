"""Resample few parents, each with several candidates.

N = P * M particles: P parents are drawn among all N, and each is repeated M times. A parent's M children are its candidates. They
start equal, so they share what a network said of their parent, and part when they move. In this engine copies share it under every
scheme, and what children become is guessed from their own rows: M > 1 saves no row by itself, and has fewer parents.

This is nested SMC (Naesseth, Lindsten and Schon 2015) without its inner choice. There a parent i first chooses one of its own
candidates, by their weights v_ij, and then counts by their mean nu_i = mean_j v_ij; candidate (i, j) goes on with expectation
P * nu_i / sum(nu) * v_ij / sum_j(v_ij), which is P times its share of all weights. Here it has the same expectation in one draw,
and two candidates of one parent may both go on. What is biased is to choose within parents and then to forget nu_i.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fktext.errors import UsageError
from fktext.smc.resamplers import Resampler


def candidates(scheme: Resampler, number: int) -> Resampler:
    """Make a resampler that draws N / M parents as a scheme draws N, and repeats each M times; unbiased where the scheme is.

    Of the scheme's N offspring, in the order of their parents, it keeps every M-th, from a random one of the first M on: with the
    systematic scheme that is systematic resampling of P. So E[counts] = M * P * W = N * W.

    Args:
        scheme: any unbiased scheme.
        number: M; 1 returns the scheme itself.

    Raises:
        UsageError: M is below 1; or, when it is used, N is not a multiple of M.
    """
    if number < 1:
        raise UsageError(f"a parent has at least one candidate, got {number}")
    if number == 1:
        return scheme

    def counts(weights: Tensor, uniforms: Tensor) -> Tensor:
        check_multiple(weights.shape[-1], number)
        offset = (uniforms[:, -1:] * number).long()  # of the first offspring that is kept
        offspring = scheme.counts(weights, uniforms[:, :-1].contiguous()).cumsum(-1)
        kept = (offspring - offset + number - 1) // number  # how many of those up to each parent
        return number * kept.diff(dim=-1, prepend=torch.zeros_like(kept[:, :1]))

    return Resampler(f"{scheme.name}, {number} candidates", counts, lambda size: scheme.draws(size) + 1)


def check_multiple(particles: int, number: int) -> None:
    """Refuse particles that cannot be shared out over parents of so many candidates.

    Raises:
        UsageError: N is not a multiple of M.
    """
    if particles % number:
        raise UsageError(f"particles must be a multiple of the {number} candidates of a parent, got {particles}")
