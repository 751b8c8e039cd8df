"""Select the best instead of resampling by weight: what steering is compared with.

- `best_candidate`, SVDD (Li et al. 2024, arXiv 2408.08252, in the limit alpha = 0 that its experiments use): of the M candidates of
  each parent the one of highest value goes on.
- `beam`: of all P * M candidates the P of highest value go on, whoever their parents are.

Both are selection rules, not resampling: what they return follows no law that is known, no weights make up for it, and they
estimate no Z. `selection_steps` says so in what it yields: weights are equal, and log Z is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fktext.smc.candidates import check_multiple
from fktext.smc.noise import Noise
from fktext.smc.potentials import Carry
from fktext.smc.process import ReverseProcess, Scorer
from fktext.smc.resamplers import Resampler, ancestors_from_counts
from fktext.smc.steer import Plan, Step, steer_steps
from fktext.smc.weights import ess


@dataclass(frozen=True)
class Selection(Resampler):
    """A rule that selects by value, in the place of a resampling scheme; `counts` takes values (B, N), not weights."""

    def __call__(self, log_w: Tensor, uniforms: Tensor) -> Tensor:
        """Return ancestors (B, N) by values, of which any may be -inf."""
        return ancestors_from_counts(self.counts(log_w, uniforms))


def best_candidate(number: int) -> Selection:
    """Make SVDD's rule: slots are parents' groups of M candidates, and the best of each group, the first among equals, takes it.

    Args:
        number: M.
    """

    def counts(values: Tensor, uniforms: Tensor) -> Tensor:
        check_multiple(values.shape[-1], number)
        groups = values.unflatten(-1, (-1, number))
        best = groups.argmax(-1, keepdim=True)
        return torch.zeros_like(groups, dtype=torch.int64).scatter_(-1, best, number).flatten(1)

    return Selection("svdd", counts, lambda size: 1)


def beam(number: int) -> Selection:
    """Make the rule of beam search: the N / M particles of highest value, the first among equals, have M offspring each.

    Args:
        number: M.
    """

    def counts(values: Tensor, uniforms: Tensor) -> Tensor:
        check_multiple(values.shape[-1], number)
        best = values.argsort(dim=-1, descending=True, stable=True)[:, : values.shape[-1] // number]
        return torch.zeros_like(values, dtype=torch.int64).scatter_(-1, best, number)

    return Selection("beam", counts, lambda size: 1)


class Latest:
    """G_k = exp(lambda r_k): a weighing goes by what it says itself, whatever those before it said."""

    def init(self, log_tilt: Tensor) -> Carry:
        """Start the sum at 0."""
        return (torch.zeros_like(log_tilt),)

    def __call__(self, log_tilt: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return log_phi = sum_{j <= k} lambda r_j."""
        log_phi = carry[0] + log_tilt
        return log_phi, (log_phi,)


def selection_steps(process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan) -> Iterator[Step]:
    """Run B populations by a selection rule, yielding at each weighing; see `fktext.smc.steer.steer_steps`.

    Args:
        process, scorer, noise: of the run.
        plan: its resampler is a rule of this module, used at every weighing unless the threshold is 0; potential and temper are not
            used.

    Yields:
        Steps with equal weights and log_z NaN. At the end those whom the rule leaves out weigh nothing, and the others equally, but
        for samples of reward -inf.

    Raises:
        RewardError, PopulationError: as `steer_steps`.
    """
    threshold = math.inf if plan.ess_threshold else 0.0
    for step in steer_steps(process, scorer, noise, replace(plan, potential=Latest(), ess_threshold=threshold, temper=None)):
        out = torch.zeros_like(step.reward, dtype=torch.bool)
        if step.k == process.num_steps:
            values = plan.lam * step.reward if plan.lam else torch.zeros_like(step.reward)
            out = (plan.resampler.counts(values, values) == 0) if threshold else out
            out |= values == -torch.inf
        log_w = torch.zeros_like(step.log_w).masked_fill(out, -torch.inf)
        yield replace(step, log_w=log_w, log_z=torch.full_like(step.log_z, torch.nan), ess=ess(log_w))
