"""Let a person reach into a run, between two weighings: drop a particle, multiply it, pin it, or change a reward's weight.

What a hand does to a particle is a factor on the weight of its lineage, carried with it as a proposal's log p - log q is
(`fktext.smc.process.Proposing`) until the next weighing, where the usual resampling acts on it. A pinned particle keeps a place at
every resampling, as the reference of conditional SMC does (`fktext.smc.conditional`). All of it depends on what the hand has seen,
so the texts no longer follow p(x) exp(lambda r(x)). A hand that does nothing changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fktext.errors import UsageError
from fktext.smc.conditional import Wrapped
from fktext.smc.noise import Noise
from fktext.smc.process import ReverseProcess
from fktext.smc.resamplers import Resampler
from fktext.smc.steer import Plan

DROPPED = -1e4  # nats; finite, so that a population whose every particle is dropped still has weights


@dataclass
class HandledState:
    """Hold M particles.

    Attributes:
        own: their state in the process itself.
        factor: (M,) float64 in nats, what hands have done to the lineage.
    """

    own: Any
    factor: Tensor

    @property
    def ids(self) -> Any:
        """Their tokens, where the process has some."""
        return self.own.ids


class Handled(Wrapped):
    """Move as a process does, and put what a hand has decided into the particles' factors."""

    def __init__(self, process: ReverseProcess[Any], hand: Hand) -> None:
        super().__init__(process)
        self._hand = hand

    def init(self, noise: Noise) -> HandledState:
        """See `fktext.smc.process.ReverseProcess`."""
        own = super().init(noise)
        return HandledState(own, torch.zeros_like(noise.key, dtype=torch.float64))

    def advance(self, state: HandledState, k: int, k_next: int, noise: Noise) -> HandledState:
        """Move, with the factors that are due now."""
        factor = state.factor
        for particle, change in self._hand.due().items():
            factor = factor.index_add(0, torch.tensor([particle], device=factor.device), factor.new_tensor([change]))
        return HandledState(super().advance(state.own, k, k_next, noise), factor)

    def predict(self, state: HandledState, k: int, noise: Noise, samples: int) -> tuple[Any, HandledState]:
        """See `fktext.smc.process.ReverseProcess`."""
        x0, own = super().predict(state.own, k, noise, samples)
        return x0, replace(state, own=own)

    def features(self, state: HandledState, k: int) -> tuple[Any, HandledState]:
        """See `fktext.smc.process.Featured`."""
        features, own = super().features(state.own, k)
        return features, replace(state, own=own)

    def log_ratio(self, state: HandledState) -> Tensor:
        """See `fktext.smc.process.Proposing`: the process's own and the factors."""
        return super().log_ratio(state.own) + state.factor


class Hand:
    """Reach into one population. Particles are named as the last weighing had them, before it resampled.

    Args:
        particles: N.
    """

    def __init__(self, particles: int) -> None:
        self._particles = particles
        self._due: dict[int, float] = {}
        self._ancestors: Sequence[int] = range(particles)
        self._scorer: Any = None
        self.pinned: set[int] = set()

    def saw(self, ancestors: Sequence[int]) -> None:
        """Note the ancestors (N,) of the last weighing: whoever is named from now on is named as it was there."""
        self._ancestors = ancestors

    def drop(self, particle: int) -> None:
        """Give a particle no weight: at the next resampling it has no offspring."""
        self.pinned.discard(self._check(particle))
        self._change(particle, DROPPED)

    def fork(self, particle: int) -> None:
        """Multiply the weight of a particle by N, so that about half of the next generation descends from it."""
        self._change(self._check(particle), math.log(self._particles))

    def pin(self, particle: int, *, on: bool = True) -> None:
        """Let a particle keep its place at every resampling, or no longer.

        Raises:
            UsageError: it is gone already, or nobody else would have a place.
        """
        if on and self._check(particle) not in self._ancestors:
            raise UsageError(f"particle {particle} has no offspring, so it cannot be pinned")
        if on and len(self.pinned | {particle}) == self._particles:
            raise UsageError("not all particles can be pinned")
        (self.pinned.add if on else self.pinned.discard)(particle)

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Give rewards other weights, by name; from the next weighing on.

        Raises:
            UsageError: there is no such reward, or the run has not begun. RewardError: a weight is 0 or not finite.
        """
        if self._scorer is None or (strange := set(weights) - set(self._scorer.names)):
            raise UsageError(f"no reward of this run is called {sorted(strange)[0]!r}" if self._scorer else "the run has not begun")
        terms = [replace(term, weight=weights.get(term.name, term.weight)) for term in self._scorer.terms]
        self._scorer.terms = tuple(terms)

    def take(self, plan: Plan, scorer: Any, populations: int) -> Plan:
        """Take a run in hand: return its plan as it answers to this; its process has to be `Handled`.

        Args:
            plan: of the run.
            scorer: a `fktext.rewards.Scorer`, whose terms may change.
            populations: how many the run has.

        Raises:
            UsageError: the run has more than one population, or another number of particles.
        """
        if plan.particles != self._particles or populations > 1:
            raise UsageError(f"a hand reaches into one population of {self._particles} particles")
        self._scorer = scorer
        return replace(plan, resampler=self._pinning(plan.resampler))

    def due(self) -> dict[int, float]:
        """Return the changes of factors, in nats, by particle of the next generation, and forget them."""
        due, self._due = self._due, {}
        return due

    def _check(self, particle: int) -> int:
        if not 0 <= particle < self._particles:
            raise UsageError(f"there is no particle {particle}: there are {self._particles}, from 0")
        return particle

    def _change(self, particle: int, change: float) -> None:
        for place, ancestor in enumerate(self._ancestors):
            if ancestor == particle:
                self._due[place] = self._due.get(place, 0.0) + change

    def _pinning(self, resampler: Resampler) -> Resampler:
        """Return a resampler in which those pinned have offspring, at the expense of whoever has most."""

        def counts(weights: Tensor, uniforms: Tensor) -> Tensor:
            found = resampler.counts(weights, uniforms)
            for particle in sorted(self.pinned):
                if int(found[0, particle]) == 0:
                    found = found.clone()
                    found[0, int(found[0].argmax())] -= 1
                    found[0, particle] = 1
            return found

        return Resampler(f"pinning-{resampler.name}", counts, resampler.draws)
