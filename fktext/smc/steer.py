"""Feynman-Kac steering: particles move, are weighed, and are resampled."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from fktext.smc import RESAMPLERS, Resampler, all_dead, ess, log_mean_exp, log_normalize
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.lookahead import LookAhead, Predictions, Sight, judge, too_large
from fktext.smc.noise import Noise
from fktext.smc.potentials import Carry, Difference, Potential
from fktext.smc.process import Proposing, ReverseProcess, Scorer, bare, gather
from fktext.smc.schedules import Schedule
from fktext.smc.tempering import temper


@dataclass(frozen=True)
class Step:
    """Hold one weighing of B populations of N particles.

    Attributes:
        k: reverse steps taken so far.
        values: (B, N, S, P) value of each of P rewards for each of S predictions of x0; see `fktext.smc.lookahead.Sight`.
        reward: (B, N) their weighted sum, averaged over the predictions.
        log_w: (B, N) float64 log-weights before resampling, in nats.
        tau: (B,) the power of the potentials that is in them: 1 but for tempering, and at the end.
        log_z: (B,) log of the normalising constant up to here, in nats.
        ess: (B,) effective sample size before resampling.
        resampled: (B,) which populations resampled.
        ancestors: (B, N) the particle each one continues; the identity where a population did not resample.
        samples: B * N * S decoded predictions, particle-major; () where the look-ahead draws none.
        ledger: what the run has cost so far.
        state: the M particles as they are before resampling, without what a network said of them; None where it is not kept.
    """

    k: int
    values: Tensor
    reward: Tensor
    log_w: Tensor
    tau: Tensor
    log_z: Tensor
    ess: Tensor
    resampled: Tensor
    ancestors: Tensor
    samples: Sequence[Any]
    ledger: Ledger
    state: Any = None

    @property
    def bare(self) -> Step:
        """This step without decoded predictions and state, to be kept."""
        return replace(self, samples=(), state=None)

    def of(self, population: int) -> Step:
        """Return this step of one population: its tensors without axis B, on the CPU, without decoded predictions and state."""
        names = ("values", "reward", "log_w", "tau", "log_z", "ess", "resampled", "ancestors")
        return replace(self.bare, **{name: getattr(self, name)[population].cpu() for name in names})


@dataclass(frozen=True)
class Result:
    """Hold the whole weighted population at the end.

    Attributes:
        samples: B * N finished samples.
        values: (B, N, P) value of each reward; `reward` (B, N) their weighted sum.
        log_w: (B, N) normalised log-weights: sum_i W_i f(x_i) estimates the mean of f under p(x) exp(lambda r(x)) / Z; all -inf
            in a dead population, whose samples all have reward -inf.
        log_z: (B,) log of an unbiased estimate of Z = E_p[exp(lambda r)]; -inf for a dead population.
        roots: (B, N) the particle at step 0 each sample descends from.
        steps: every weighing, without its decoded predictions.
        ledger: what the run has cost.
    """

    samples: Sequence[Any]
    values: Tensor
    reward: Tensor
    log_w: Tensor
    log_z: Tensor
    roots: Tensor
    steps: tuple[Step, ...]
    ledger: Ledger


@dataclass(frozen=True)
class Plan:
    """Say how to steer.

    Attributes:
        particles: N, particles per population.
        schedule: when to weigh.
        potential: how intermediate rewards become weights.
        resampler: how offspring are drawn.
        lam: lambda, the strength of the tilt exp(lambda r).
        ess_threshold: a population resamples when its effective sample size is below this share of N; 0 never, above 1 always.
        look_ahead: what unfinished particles are thought to become.
        temper: the share of N that a weighing before the end leaves effective, holding back some of the tilt; None holds nothing
            back. See `fktext.smc.tempering`.
    """

    particles: int
    schedule: Schedule
    potential: Potential = Difference()  # noqa: RUF009  stateless
    resampler: Resampler = RESAMPLERS["systematic"]
    lam: float = 1.0
    ess_threshold: float = 0.9
    look_ahead: LookAhead = Predictions()  # noqa: RUF009  immutable
    temper: float | None = None


class Stepper(Protocol):
    """What runs a plan: `steer_steps`, or what is made of it."""

    def __call__(self, process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan) -> Iterator[Step]:
        """See `steer_steps`; where the way is gone several times, a round ends where k is the process's number of steps."""
        ...


def steer_steps(process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan) -> Iterator[Step]:
    """Run B populations of N particles from noise to samples, yielding at each weighing.

    Weights are carried while a population does not resample, and the last weighing is on the finished samples themselves. A process
    that moves by a proposal q (`fktext.smc.process.Proposing`) has log p - log q of its lineages in the weights, never tempered. So
    the particles of the last step are properly weighted: E[Z_hat sum_i W_i f(x_i)] = sum_x p(x) exp(lambda r(x)) f(x).
    Source: Singhal et al. 2025, algorithm 1; Chopin and Papaspiliopoulos 2020, chapter 10.

    Raises:
        RewardError: a reward failed; the message names step, reward and sample.
        PopulationError: a particle of a population has an infinite weight, or lambda times a finite reward is beyond any number.
    """
    started, before = time.perf_counter(), process.ledger + scorer.ledger
    shape = (len(noise.key) // plan.particles, plan.particles)
    zeros = noise.key.new_zeros(shape, dtype=torch.float64)
    identity = torch.arange(plan.particles, device=zeros.device).expand(shape)
    state, carry = process.init(noise), plan.potential.init(zeros)
    log_phi, base, log_z, tau = zeros, zeros, zeros[:, 0], zeros[:, 0]  # base: log-weight of a lineage at its last reset
    for k, k_next in pairwise((0, *plan.schedule.weighings(process.num_steps))):
        state = process.advance(state, k, k_next, noise)
        last = k_next == process.num_steps
        sight, state = (judge if last else plan.look_ahead)(process, scorer, state, k_next, noise, plan.lam, plan.particles)
        log_phi, carry = (sight.log_tilt, carry) if last else _weigh(plan.potential, sight, log_phi, carry)
        ratio = process.log_ratio(state).view(shape) if isinstance(process, Proposing) else zeros
        tau, tempered = temper(log_phi, base - ratio, tau, None if last else plan.temper)
        log_w = tempered + ratio - base
        if (bad := ~(log_w < torch.inf).all(-1)).any():
            raise too_large(int(bad.nonzero()[0, 0]), float(log_w.max()), k_next)
        alive, size = ~all_dead(log_w), ess(log_w)
        resampled = (size < plan.ess_threshold * plan.particles) & alive & (not last)
        uniforms = noise.populations(streams.RESAMPLE, k_next, plan.particles, plan.resampler.draws(plan.particles))
        ancestors = torch.where(resampled[:, None], plan.resampler(torch.where(alive[:, None], log_w, zeros), uniforms), identity)
        mean = log_z + log_mean_exp(log_w)
        ledger = replace(process.ledger + scorer.ledger - before, seconds=time.perf_counter() - started)
        seen = (sight.samples, ledger, bare(state))
        yield Step(k_next, sight.values, sight.reward, log_w, tau, mean, size, resampled, ancestors, *seen)
        if not last and resampled.any():
            log_z = torch.where(resampled, mean, log_z)
            log_phi = log_phi.gather(1, ancestors)
            base = torch.where(resampled[:, None], (tempered + ratio).gather(1, ancestors), base)
            carry = tuple(part.gather(1, ancestors) for part in carry)
            state = gather(state, (ancestors + plan.particles * torch.arange(shape[0], device=base.device)[:, None]).flatten())


def steer(process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan) -> Result:
    """Drain `steer_steps` and return the weighted population at the end."""
    return collect(steer_steps(process, scorer, noise, plan))


def collect(steps: Iterator[Step]) -> Result:
    """Return the result of a run whose steps have been watched (see `steer_steps`)."""
    step = next(steps)
    kept, roots = [step.bare], step.ancestors
    for step in steps:
        kept.append(step.bare)
        roots = roots.gather(1, step.ancestors)
    return Result(
        samples=step.samples,
        values=step.values[:, :, 0],
        reward=step.reward,
        log_w=log_normalize(step.log_w),
        log_z=step.log_z,
        roots=roots,
        steps=tuple(kept),
        ledger=step.ledger,
    )


def _weigh(potential: Potential, sight: Sight, log_phi: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
    """Make log_phi (B, N) and carry of what is seen; a population that it tells nothing of stays as it was."""
    new_phi, new_carry = potential(sight.log_tilt, carry)
    told = sight.told[:, None]
    kept = tuple(torch.where(told, new, old) for new, old in zip(new_carry, carry, strict=True))
    return torch.where(told, new_phi, log_phi), kept
