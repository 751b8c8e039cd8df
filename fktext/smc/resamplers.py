"""Decide how many offspring each particle gets: resampling schemes.

Every scheme maps weights (B, N) and uniforms (B, `draws(N)`) to offspring counts (B, N) with E[counts] = N * W and row sums N,
for all populations at once and on their device. A particle of weight zero never has offspring, whatever the rounding: indices are
found in a cumulative sum that is divided by its own last entry, so it ends in exactly 1, and uniforms lie strictly inside (0, 1).

Sources: Douc, Cappe and Moulines 2005 (multinomial, residual, stratified, systematic); Gerber, Chopin and Whiteley 2019 (SSP);
Del Moral 2004 (killing).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fktext.smc.weights import normalize


@dataclass(frozen=True)
class Resampler:
    """A named resampling scheme.

    Attributes:
        counts: (W (B, N) float64 weights that sum to one, uniforms (B, draws(N))) -> offspring (B, N) int64.
        draws: N -> number of uniforms per population.
    """

    name: str
    counts: Callable[[Tensor, Tensor], Tensor]
    draws: Callable[[int], int]

    def __call__(self, log_w: Tensor, uniforms: Tensor) -> Tensor:
        """Return ancestors (B, N) int64 of the next generation; survivors keep their place (see `ancestors_from_counts`).

        Args:
            log_w: (B, N) float64 log-weights; every row has one above -inf.
            uniforms: (B, draws(N)) float64 in (0, 1).
        """
        return ancestors_from_counts(self.counts(normalize(log_w), uniforms))


def ancestors_from_counts(counts: Tensor) -> Tensor:
    """Map offspring counts (B, N) to ancestors (B, N) such that every particle with offspring stays where it is.

    Further copies fill the places of particles without offspring, in order. So equal counts give the identity, and only movers
    have to be copied.

    Example:
        >>> ancestors_from_counts(torch.tensor([[0, 1, 3, 0]]))
        tensor([[2, 1, 2, 2]])
    """
    population = torch.arange(counts.shape[-1], device=counts.device).expand_as(counts)
    vacant = counts == 0
    spare = (counts - 1).clamp(min=0).cumsum(-1)  # copies beyond the first, of particles 0 .. i
    rank = vacant.cumsum(-1) - 1  # the how-manieth vacant place this is
    return torch.where(vacant, torch.searchsorted(spare, rank, right=True).clamp(max=counts.shape[-1] - 1), population)


def _cumulative(weights: Tensor) -> Tensor:
    total = weights.cumsum(-1)
    return total / total[..., -1:]


def _count_points(weights: Tensor, points: Tensor) -> Tensor:
    """Count the points (B, K) in (0, 1] on each particle's stretch (C_{i-1}, C_i] of the cumulative weights."""
    chosen = torch.searchsorted(_cumulative(weights), points)
    return torch.zeros_like(weights, dtype=torch.int64).scatter_add_(-1, chosen, torch.ones_like(chosen))


def _multinomial(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Take N independent draws."""
    return _count_points(weights, uniforms)


def _stratified(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Take one independent draw in each stretch of length 1/N."""
    size = weights.shape[-1]
    return _count_points(weights, (torch.arange(size, device=weights.device) + uniforms) / size)


def _systematic(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Take one draw, repeated every 1/N."""
    return _stratified(weights, uniforms.expand(-1, weights.shape[-1]))


def _residual(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Keep floor(N W) copies for certain; draw the rest, multinomial, by what is left of the weights."""
    size = weights.shape[-1]
    certain = (size * weights * (1 + 2.0**-48)).floor()  # N * (1/N) may fall a rounding short of one
    rest = (size * weights - certain).clamp(min=0)
    left = size - certain.sum(-1, keepdim=True)  # (B, 1) draws to make
    drawn = torch.searchsorted(_cumulative(torch.where(left > 0, rest, weights)), uniforms)
    made = torch.arange(size, device=weights.device) < left
    return certain.long().scatter_add_(-1, drawn, made.long())


def _ssp(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Run the Srinivasan sampling process (pivotal sampling): fractional parts meet one by one until each is 0 or 1."""
    size = weights.shape[-1]
    counts = (size * weights).floor()
    fraction = size * weights - counts
    row = torch.arange(len(weights), device=weights.device)
    holder, held = torch.zeros_like(row), fraction[:, 0]  # the one fraction not yet settled
    for other in range(1, size):
        new = fraction[:, other]
        total = held + new
        rounds_up = total >= 1
        # below 1 one of the two takes all and the other gets 0; otherwise one gets 1 and the other keeps total - 1
        other_stays = uniforms[:, other] * torch.where(rounds_up, 2 - total, total) < torch.where(rounds_up, 1 - new, new)
        settled = torch.where(other_stays, holder, other)
        counts[row, settled] += rounds_up
        holder = torch.where(other_stays, other, holder)
        held = torch.where(rounds_up, total - 1, total)
    counts[row, holder] += held.round()
    return counts.long()


def _killing(weights: Tensor, uniforms: Tensor) -> Tensor:
    """Let each particle survive with probability W / max W, and give its place to a multinomial draw else."""
    size = weights.shape[-1]
    killed = uniforms[:, :size] * weights.amax(-1, keepdim=True) >= weights
    drawn = torch.searchsorted(_cumulative(weights), uniforms[:, size:].contiguous())
    return (~killed).long().scatter_add_(-1, drawn, killed.long())


RESAMPLERS: Mapping[str, Resampler] = {
    scheme.name: scheme
    for scheme in (
        Resampler("multinomial", _multinomial, lambda size: size),
        Resampler("systematic", _systematic, lambda size: 1),
        Resampler("stratified", _stratified, lambda size: size),
        Resampler("residual", _residual, lambda size: size),
        Resampler("ssp", _ssp, lambda size: size),
        Resampler("killing", _killing, lambda size: 2 * size),
    )
}
