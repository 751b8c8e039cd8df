"""Feynman-Kac steering: particles move, are weighed, and are resampled."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from fktext import noise as streams
from fktext.errors import PopulationError
from fktext.ledger import Ledger
from fktext.noise import Noise
from fktext.potentials import Difference, Potential
from fktext.process import ReverseProcess, gather
from fktext.rewards import Scorer
from fktext.schedules import Schedule
from fktext.smc import RESAMPLERS, Resampler, all_dead, ess, log_mean_exp, log_normalize


@dataclass(frozen=True)
class Step:
    """One weighing of B populations of N particles.

    Attributes:
        k: reverse steps taken so far.
        values: (B, N, S, P) value of each of P rewards for each of S predictions of x0.
        reward: (B, N) their weighted sum, averaged over the predictions.
        log_w: (B, N) float64 log-weights before resampling, in nats.
        log_z: (B,) log of the normalising constant up to here, in nats.
        ess: (B,) effective sample size before resampling.
        resampled: (B,) which populations resampled.
        ancestors: (B, N) the particle each one continues; the identity where a population did not resample.
        samples: B * N * S decoded predictions, particle-major.
        ledger: what the run has cost so far.
    """

    k: int
    values: Tensor
    reward: Tensor
    log_w: Tensor
    log_z: Tensor
    ess: Tensor
    resampled: Tensor
    ancestors: Tensor
    samples: Sequence[Any]
    ledger: Ledger

    def of(self, population: int) -> Step:
        """This step of one population: its tensors without axis B, on the CPU, without decoded predictions."""
        names = ("values", "reward", "log_w", "log_z", "ess", "resampled", "ancestors")
        return replace(self, samples=(), **{name: getattr(self, name)[population].cpu() for name in names})


@dataclass(frozen=True)
class Result:
    """The whole weighted population at the end.

    Attributes:
        samples: B * N finished samples.
        values: (B, N, P) value of each reward; `reward` (B, N) their weighted sum.
        log_w: (B, N) normalised log-weights: sum_i W_i f(x_i) estimates the mean of f under p(x) exp(lambda r(x)) / Z.
        log_z: (B,) log of an unbiased estimate of Z = E_p[exp(lambda r)].
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
    """How to steer.

    Attributes:
        particles: N, particles per population.
        schedule: when to weigh.
        potential: how intermediate rewards become weights.
        resampler: how offspring are drawn.
        lam: lambda, the strength of the tilt exp(lambda r).
        ess_threshold: a population resamples when its effective sample size is below this share of N; 0 never, above 1 always.
        x0_samples: S, predictions of x0 per particle and weighing.
        x0_average: average exp(lambda r) over predictions ("tilt", aims at the tilted law) or exp(r) ("reward", as published).
    """

    particles: int
    schedule: Schedule
    potential: Potential = Difference()  # noqa: RUF009  stateless
    resampler: Resampler = RESAMPLERS["systematic"]
    lam: float = 1.0
    ess_threshold: float = 0.5
    x0_samples: int = 1
    x0_average: Literal["tilt", "reward"] = "tilt"


def steer_steps(process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan) -> Iterator[Step]:
    """Run B populations of N particles from noise to samples, yielding at each weighing.

    Weights are carried while a population does not resample, and the last weighing is on the finished samples themselves. So
    the particles of the last step are properly weighted: E[Z_hat sum_i W_i f(x_i)] = sum_x p(x) exp(lambda r(x)) f(x).
    Source: Singhal et al. 2025, algorithm 1; Chopin and Papaspiliopoulos 2020, chapter 10.

    Raises:
        RewardError: a reward failed; the message names step, reward and sample.
        PopulationError: every particle of a population has weight zero, or one an infinite weight.
    """
    started, before = time.perf_counter(), process.ledger + scorer.ledger
    shape = (len(noise.key) // plan.particles, plan.particles)
    zeros = noise.key.new_zeros(shape, dtype=torch.float64)
    identity = torch.arange(plan.particles, device=zeros.device).expand(shape)
    state, carry = process.init(noise), plan.potential.init(zeros)
    base, log_z = zeros, zeros[:, 0]  # base: log_phi of each lineage when its weights were last reset
    for k, k_next in pairwise((0, *plan.schedule.weighings(process.num_steps))):
        state = process.advance(state, k, k_next, noise)
        last = k_next == process.num_steps
        x0, state = process.predict(state, k_next, noise, plan.x0_samples)
        samples, values, reward, log_tilt = _score(process, scorer, x0, zeros, plan, k_next)
        log_phi, carry = (log_tilt, carry) if last else plan.potential(log_tilt, carry)
        log_w = log_phi - base
        if (bad := all_dead(log_w) | ~(log_w < torch.inf).all(-1)).any():
            population = int(bad.nonzero()[0, 0])
            raise PopulationError(population, _bad_weights(log_w[population], k_next))
        size = ess(log_w)
        resampled = (size < plan.ess_threshold * plan.particles) & (not last)
        uniforms = noise.populations(streams.RESAMPLE, k_next, plan.particles, plan.resampler.draws(plan.particles))
        ancestors = torch.where(resampled[:, None], plan.resampler(log_w, uniforms), identity)
        mean = log_z + log_mean_exp(log_w)
        ledger = replace(process.ledger + scorer.ledger - before, seconds=time.perf_counter() - started)
        yield Step(k_next, values, reward, log_w, mean, size, resampled, ancestors, samples, ledger)
        if not last and resampled.any():
            log_z = torch.where(resampled, mean, log_z)
            base = torch.where(resampled[:, None], log_phi, base).gather(1, ancestors)
            carry = tuple(part.gather(1, ancestors) for part in carry)
            state = gather(state, (ancestors + plan.particles * torch.arange(shape[0], device=base.device)[:, None]).flatten())


def steer(process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan) -> Result:
    """Drain `steer_steps` and return the weighted population at the end."""
    return collect(steer_steps(process, scorer, noise, plan))


def collect(steps: Iterator[Step]) -> Result:
    """The result of a run whose steps have been watched (see `steer_steps`)."""
    step = next(steps)
    kept, roots = [replace(step, samples=())], step.ancestors
    for step in steps:
        kept.append(replace(step, samples=()))
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


def _score(
    process: ReverseProcess[Any], scorer: Scorer, x0: Any, like: Tensor, plan: Plan, k: int
) -> tuple[Sequence[Any], Tensor, Tensor, Tensor]:
    """Decode predictions and score them: samples, values (B, N, S, P), mean reward (B, N), log-tilt (B, N)."""
    samples = process.decode(x0)
    values = scorer(samples, f" at step {k} of {process.num_steps}").to(like.device)
    values = values.reshape(*like.shape, len(samples) // like.numel(), len(scorer.names))
    total = scorer.total(values)  # (B, N, S)
    if plan.lam == 0:
        log_tilt = torch.zeros_like(like)
    elif plan.x0_average == "tilt":
        log_tilt = log_mean_exp(plan.lam * total)
    else:
        log_tilt = plan.lam * log_mean_exp(total)
    return samples, values, total.mean(-1), log_tilt


def _bad_weights(log_w: Tensor, k: int) -> str:
    """What is wrong with the (N,) log-weights of a population."""
    if all_dead(log_w):
        return (
            f"all {len(log_w)} particles have weight zero at step {k}: every reward is -inf. "
            "Use more particles, a smaller lambda, or a reward that is finite for more samples."
        )
    return f"a log-weight is {float(log_w[~(log_w < torch.inf)][0])} at step {k}: lambda times the reward is beyond any number."
