"""Run particle Gibbs: sweeps of sequential Monte Carlo, each of which keeps one lineage of the last.

A conditional sweep runs N particles of which slot 0 of each population is a path that is known beforehand, the reference: it is not
moved, it is weighed like any other, and it survives every resampling. If the reference follows the tilted law of paths,

    p(x_0, ..., x_K) exp(lambda r(x_K)) / Z,

so does a lineage that is drawn at the end by its weight, at any N > 1. Particle Gibbs iterates this. Its first sweep is plain SMC,
so where SMC is far from its target, sweeps come nearer, with the memory of one sweep. A sweep may also start from the reference's
state at a weighing k (a Gibbs block): all particles are copies of it, and only what comes after k is drawn anew.

Two things make it right, and `tests/exact/test_conditional.py` shows that it is wrong without either: the reference is drawn by
weight, it is not the best lineage; and slot 0 is its own ancestor, while the other N - 1 slots draw from all N weights. No sweep
shares noise with another. What a look-ahead guesses of the reference is drawn anew in each sweep, from its law given the
path, which is a Gibbs step itself. Adaptive resampling and tempering may look at the particles of the sweep that they are used
in, as they may in plain SMC: both are known before offspring are drawn, and the engine divides by what it weighed with.

Sources: Andrieu, Doucet and Holenstein 2010, "Particle Markov chain Monte Carlo methods", sections 2.4.3 and 4.6; Chopin and Singh
2015, "On particle Gibbs sampling".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fktext.errors import UsageError
from fktext.smc import noise as streams
from fktext.smc.ledger import Ledger
from fktext.smc.noise import Noise, population_key
from fktext.smc.process import Featured, Features, Proposing, ReverseProcess, Scorer, bare, gather
from fktext.smc.resamplers import RESAMPLERS, Resampler
from fktext.smc.schedules import Schedule
from fktext.smc.steer import Plan, Result, Step, collect, steer_steps
from fktext.smc.weights import all_dead, normalize


@dataclass(frozen=True)
class Path:
    """Hold one lineage of each of B populations.

    Attributes:
        states: by the weighing k: its state after k steps, B rows, without what a network said of it.
        held: (B,) bool, where it is to be kept; the others come from populations in which all particles had weight zero.
    """

    states: Mapping[int, Any]
    held: Tensor


class Wrapped:
    """Do what a reverse process does; subclasses do something beside it."""

    def __init__(self, process: ReverseProcess[Any]) -> None:
        self.process, self.num_steps, self.ledger = process, process.num_steps, process.ledger
        self._zeros = torch.zeros(0, dtype=torch.float64)

    def init(self, noise: Noise) -> Any:
        """See `fktext.smc.process.ReverseProcess`."""
        self._zeros = torch.zeros_like(noise.key, dtype=torch.float64)
        return self.process.init(noise)

    def advance(self, state: Any, k: int, k_next: int, noise: Noise) -> Any:
        """See `fktext.smc.process.ReverseProcess`."""
        return self.process.advance(state, k, k_next, noise)

    def predict(self, state: Any, k: int, noise: Noise, samples: int) -> tuple[Any, Any]:
        """See `fktext.smc.process.ReverseProcess`."""
        return self.process.predict(state, k, noise, samples)

    def decode(self, x0: Any) -> Sequence[Any]:
        """See `fktext.smc.process.ReverseProcess`."""
        return self.process.decode(x0)

    def features(self, state: Any, k: int) -> tuple[Features, Any]:
        """See `fktext.smc.process.Featured`.

        Raises:
            UsageError: the process has none.
        """
        if not isinstance(self.process, Featured):
            raise UsageError(
                f"{type(self.process).__name__} keeps nothing that a learned value could use: look ahead by predictions"
            )
        return self.process.features(state, k)

    def log_ratio(self, state: Any) -> Tensor:
        """See `fktext.smc.process.Proposing`; zero where the process moves by its own law."""
        return self.process.log_ratio(state) if isinstance(self.process, Proposing) else self._zeros


class Recording(Wrapped):
    """Keep the states of all particles at each weighing, in `states`, without what a network said of them."""

    def __init__(self, process: ReverseProcess[Any]) -> None:
        super().__init__(process)
        self.states: dict[int, Any] = {}

    def advance(self, state: Any, k: int, k_next: int, noise: Noise) -> Any:
        """Move, and keep where the particles have come to."""
        state = super().advance(state, k, k_next, noise)
        self.states[k_next] = _bare(state)
        return state


class Pinned(Wrapped):
    """Put a path into slot 0 of each population that it is held for, at each weighing."""

    def __init__(self, process: ReverseProcess[Any], path: Path, particles: int) -> None:
        super().__init__(process)
        self._path, self._particles = path, particles
        self._held = path.held.nonzero()[:, 0]

    def advance(self, state: Any, k: int, k_next: int, noise: Noise) -> Any:
        """Move, and replace what slot 0 has come to."""
        state = super().advance(state, k, k_next, noise)
        return _put(state, self._held * self._particles, gather(self._path.states[k_next], self._held))


class Started(Wrapped):
    """Start all particles of a population from the state of a path after `start` steps, in the place of noise."""

    def __init__(self, process: ReverseProcess[Any], path: Path, particles: int, start: int) -> None:
        super().__init__(process)
        self._state, self._particles, self._start = path.states[start], particles, start

    def init(self, noise: Noise) -> Any:
        """Return N copies of each path's state."""
        super().init(noise)
        rows = torch.arange(len(noise.key) // self._particles, device=noise.key.device)
        return gather(self._state, rows.repeat_interleave(self._particles))

    def advance(self, state: Any, k: int, k_next: int, noise: Noise) -> Any:
        """Move, from step `start` where the engine takes it for 0."""
        return super().advance(state, max(k, self._start), k_next, noise)


@dataclass(frozen=True)
class After:
    """Weigh as another schedule does, after step `start`."""

    schedule: Schedule
    start: int

    def weighings(self, num_steps: int) -> tuple[int, ...]:
        """Return the other's steps above `start`."""
        return tuple(k for k in self.schedule.weighings(num_steps) if k > self.start)


def conditional_multinomial(held: Tensor) -> Resampler:
    """Make the resampler of a conditional sweep: slot 0 is its own ancestor, each other slot draws one from all N weights.

    Args:
        held: (B,) bool, the populations that have a reference; the others resample multinomially.
    """
    plain = RESAMPLERS["multinomial"]

    def counts(weights: Tensor, uniforms: Tensor) -> Tensor:
        others = plain.counts(weights, uniforms[:, 1:].contiguous())
        kept = torch.cat([others[:, :1] + 1, others[:, 1:]], 1)
        return torch.where(held[:, None], kept, plain.counts(weights, uniforms))

    return Resampler("conditional-multinomial", counts, plain.draws)


class Sweep:
    """Iterate over the weighings of one sweep; afterwards `path` is the lineage drawn from it by weight.

    Args:
        process, scorer, noise, plan: see `fktext.smc.steer.steer_steps`. The plan's resampler is used where there is no path.
        path: the reference; None for plain SMC.
        start: step to start from: 0, or a weighing that the path has a state of.
    """

    def __init__(
        self, process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan, path: Path | None = None, start: int = 0
    ) -> None:
        self.path, self._noise, self._particles = path, noise, plan.particles
        if path is not None:
            process = Pinned(Started(process, path, plan.particles, start) if start else process, path, plan.particles)
            schedule = After(plan.schedule, start)
            plan = replace(plan, resampler=conditional_multinomial(path.held), schedule=schedule)
        self._process = Recording(process)
        self._steps = steer_steps(self._process, scorer, noise, plan)

    def __iter__(self) -> Iterator[Step]:
        ancestors: dict[int, Tensor] = {}
        for step in self._steps:
            ancestors[step.k] = step.ancestors
            yield step
        uniforms = self._noise.populations(streams.RETURN, 1, self._particles, 1)  # step 0 is what `Population.draw` takes
        lineage, states = choose(step.log_w, uniforms), {}
        first = self._particles * torch.arange(len(lineage), device=lineage.device)
        for k in sorted(ancestors, reverse=True):
            lineage = ancestors[k].gather(1, lineage[:, None])[:, 0]
            states[k] = gather(self._process.states[k], first + lineage)
        alive, before = ~all_dead(step.log_w), self.path
        self.path = Path({**before.states, **states}, before.held | alive) if before else Path(states, alive)


def choose(log_w: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a particle of each population by its weight: (B,) of log-weights (B, N) and uniforms (B, 1); any, where all are -inf."""
    weights = normalize(torch.where(all_dead(log_w)[:, None], 0.0, log_w)).cumsum(-1)
    return torch.searchsorted(weights / weights[:, -1:], uniforms)[:, 0]


def particle_gibbs_steps(
    process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan, sweeps: int, starts: Sequence[int] = (0,)
) -> Iterator[Step]:
    """Run particle Gibbs, yielding at each weighing of each sweep; a sweep ends where k is the process's number of steps.

    The first sweep is the plain run of the plan, bit for bit. `log_z` of all later ones is that of the first, for a conditional
    sweep does not estimate Z; `ledger` counts all sweeps so far. A population that has died is started anew, by plain SMC.

    Args:
        process, scorer, noise, plan: see `fktext.smc.steer.steer_steps`.
        sweeps: S, the first included.
        starts: the steps that later sweeps start from, in turn: 0, or weighings before the last.

    Raises:
        UsageError: a number out of its bounds, or particles that cannot be kept.
        RewardError, PopulationError: as `steer_steps`.
    """
    allowed = (0, *plan.schedule.weighings(process.num_steps)[:-1])
    if wrong := [start for start in starts if start not in allowed]:
        raise UsageError(f"sweep starts at step {wrong[0]}: expected 0, or a weighing before the last: {allowed[1:]}")
    if sweeps < 1 or not starts or (sweeps > 1 and plan.particles < 2):
        raise UsageError(
            "particle Gibbs needs a sweep, a step to start from, and two particles, one of which is kept; "
            f"got {sweeps} sweeps, {len(starts)} steps and {plan.particles} particles"
        )
    path, spent, log_z = None, Ledger(), None
    for index in range(sweeps):
        start = starts[(index - 1) % len(starts)] if index else 0
        sweep = Sweep(process, scorer, _of_sweep(noise, index, plan.particles), plan, path, start)
        for step in sweep:
            step = replace(step, ledger=spent + step.ledger)
            yield step if log_z is None else replace(step, log_z=log_z)
        path, spent = sweep.path, step.ledger
        log_z = step.log_z if log_z is None else log_z


def particle_gibbs(
    process: ReverseProcess[Any], scorer: Scorer, noise: Noise, plan: Plan, sweeps: int, starts: Sequence[int] = (0,)
) -> list[Result]:
    """Drain `particle_gibbs_steps` and return the weighted population at the end of each sweep."""
    results, steps = [], []
    for step in particle_gibbs_steps(process, scorer, noise, plan, sweeps, starts):
        steps.append(step)
        if step.k == process.num_steps:
            results.append(collect(iter(steps)))
            steps = []
    return results


def waste_recycling(sweeps: Sequence[Result], function: Callable[[Sequence[Any]], Tensor]) -> Tensor:
    """Estimate the mean of f under the tilted law by all particles of all sweeps: the mean over sweeps of sum_i W_i f(x_i).

    Its variance is below that of an average over the references, at no further cost. Leave out sweeps in which the chain was still
    far from its target.

    Args:
        sweeps: results of `particle_gibbs`.
        function: f, of B * N samples: (B * N,).

    Returns:
        (B,) float64; over the sweeps in which a population lived, NaN where there are none.

    Source: Andrieu, Doucet and Holenstein 2010, section 4.6; Frenkel 2004, "Speed-up of Monte Carlo simulations by sampling of
    rejected states".
    """
    means = []
    for result in sweeps:
        weights = result.log_w.exp()
        mean = (weights * function(result.samples).to(weights).reshape(weights.shape)).sum(-1)
        means.append(torch.where(all_dead(result.log_w), torch.nan, mean))
    return torch.stack(means).nanmean(0)


def _of_sweep(noise: Noise, sweep: int, particles: int) -> Noise:
    """Return noise of its own for a sweep; that of the first is the run's."""
    if sweep == 0:
        return noise
    keys = [population_key(key, "sweep", sweep) for key in noise.key[::particles].tolist()]
    return Noise.of(keys, particles, noise.key.device)


def _bare(state: Any) -> Any:
    """Return a state without what a network said of the particles, to be kept."""
    if hasattr(state, "gather"):
        raise UsageError(f"{type(state).__name__} is no plain dataclass of tensors: particle Gibbs cannot keep a particle of it")
    return bare(state)


def _put(state: Any, rows: Tensor, other: Any) -> Any:
    """Replace rows of each tensor of a state by those of another, in order; a tensor that is empty there is left as it is."""
    changes: dict[str, Any] = {}
    for item in fields(state):
        mine, theirs = getattr(state, item.name), getattr(other, item.name)
        if isinstance(mine, Tensor) and theirs.numel():
            changes[item.name] = mine.index_copy(0, rows, theirs)
        elif is_dataclass(mine):
            changes[item.name] = _put(mine, rows, theirs)
    return replace(state, **changes)
