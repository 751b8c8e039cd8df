"""Look ahead: say what each unfinished particle is thought to become.

The ideal intermediate log-tilt is log h(x_t) = log E[exp(lambda r(x0)) | x_t]. A look-ahead estimates it; potentials make weights
of what it says. Any finite estimate leaves the law of the result as it is, for the last weighing is on the finished samples by the
rewards themselves (`judge`): a look-ahead decides how soon particles that end badly are dropped, not what is aimed at.

- `Predictions` draws S guesses of x0 from p(x0 | x_t) and asks the rewards: N * S reward calls at each weighing.
- `Values` asks a learned function of what the network computed anyway: no reward call before the end.
- `Nothing` says nothing: the particles are weighed once, at the end.

An estimate may be wrong by any factor but one: it must never be zero where h is positive. A particle of weight zero is not
resampled, so what it might have become is lost, and the weights of the others do not make up for it. A reward of -inf (a hard
constraint) makes such zeros: four predictions that all fail do not prove that the finished sample will. So the mean over
predictions is smoothed with a pseudo-count, as a rate is that is estimated from few trials, and -inf is left to the last weighing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fktext.errors import PopulationError, UsageError
from fktext.smc.noise import Noise
from fktext.smc.process import Featured, Features, ReverseProcess, Scorer
from fktext.smc.weights import log_mean_exp

PSEUDO_COUNT = 0.1


@dataclass(frozen=True)
class Sight:
    """Hold what a weighing knows of B populations of N particles.

    Attributes:
        samples: B * N * S decoded predictions, particle-major, or () where none were drawn.
        values: (B, N, S, P) value of each of P rewards for each of S predictions; S = 1 where it is estimated as a whole.
        reward: (B, N) their weighted sum, averaged over the predictions.
        log_tilt: (B, N) estimate of log E[exp(lambda r(x0)) | x_t] in nats; at the end lambda * r.
        told: (B,) the populations that it tells anything of; the others stay as they were.
    """

    samples: Sequence[Any]
    values: Tensor
    reward: Tensor
    log_tilt: Tensor
    told: Tensor


class LookAhead(Protocol):
    """What a particle is thought to become."""

    def __call__(
        self, process: ReverseProcess[Any], scorer: Scorer, state: Any, k: int, noise: Noise, lam: float, particles: int
    ) -> tuple[Sight, Any]:
        """Look at the particles before they are finished.

        Args:
            process, scorer, noise: of the run.
            state: M = B * N particles after k steps.
            k: reverse steps taken, below `process.num_steps`.
            lam: lambda.
            particles: N.

        Returns:
            What is seen, log-tilts finite; and the state, in which whatever the network computed is kept.
        """
        ...


def judge(
    process: ReverseProcess[Any], scorer: Scorer, state: Any, k: int, noise: Noise, lam: float, particles: int
) -> tuple[Sight, Any]:
    """Judge finished samples: log_tilt = lambda * r, the log of the closed product of potentials; else as a `LookAhead`."""
    x0, state = process.predict(state, k, noise, 1)
    samples, values, weighted = _score(process, scorer, x0, k, noise, lam, particles)
    reward = weighted.sum(-1).squeeze(-1)
    return Sight(samples, values, reward, lam * reward if lam else torch.zeros_like(reward), _all(reward)), state


@dataclass(frozen=True)
class Predictions:
    """Ask the rewards about guesses of x0 drawn from p(x0 | x_t), as published.

    Attributes:
        samples: S, guesses per particle.
        average: over the guesses, of exp(lambda r) ("tilt", aims at the tilted law) or of exp(r) ("reward", as published).
        pseudo_count: how much a guess of reward -inf is doubted; see `log_tilt`.
    """

    samples: int = 1
    average: Literal["tilt", "reward"] = "tilt"
    pseudo_count: float = PSEUDO_COUNT

    def __call__(
        self, process: ReverseProcess[Any], scorer: Scorer, state: Any, k: int, noise: Noise, lam: float, particles: int
    ) -> tuple[Sight, Any]:
        """See `LookAhead`."""
        x0, state = process.predict(state, k, noise, self.samples)
        samples, values, weighted = _score(process, scorer, x0, k, noise, lam, particles)
        reward = weighted.sum(-1).mean(-1)
        tilt, told = torch.zeros_like(reward), _all(reward)
        if lam:
            tilt, told = log_tilt(weighted, lam, self.pseudo_count, average=self.average)
        return Sight(samples, values, reward, tilt, told), state


@dataclass(frozen=True)
class Values:
    """Ask learned values: functions of what the network computed of x_t, which estimate the rewards of x0 (`fktext.values`).

    Attributes:
        heads: one for each of the P rewards, (M,) estimates of its value from `Features`.
    """

    heads: Sequence[Callable[[Features], Tensor]]

    def __call__(
        self, process: ReverseProcess[Any], scorer: Scorer, state: Any, k: int, noise: Noise, lam: float, particles: int
    ) -> tuple[Sight, Any]:
        """See `LookAhead`."""
        if not isinstance(process, Featured):
            raise UsageError(f"{type(process).__name__} keeps nothing that a learned value could use: look ahead by predictions")
        features, state = process.features(state, k)
        values = torch.stack([head(features).double() for head in self.heads], -1)
        values = values.reshape(len(noise.key) // particles, particles, 1, len(self.heads))
        reward = scorer.weighted(values).sum(-1).squeeze(-1)
        if (bad := ~reward.isfinite()).any():
            raise PopulationError(int(bad.nonzero()[0, 0]), f"a learned value is {reward[bad][0]} at step {k}")
        return Sight((), values, reward, lam * reward, _all(reward)), state


@dataclass(frozen=True)
class Nothing:
    """Say nothing: weights stay as they are until the samples are finished."""

    def __call__(
        self, process: ReverseProcess[Any], scorer: Scorer, state: Any, k: int, noise: Noise, lam: float, particles: int
    ) -> tuple[Sight, Any]:
        """See `LookAhead`."""
        zeros = noise.key.new_zeros((len(noise.key) // particles, particles), dtype=torch.float64)
        return Sight((), zeros.new_zeros((*zeros.shape, 0, len(scorer.names))), zeros, zeros, ~_all(zeros)), state


def _all(reward: Tensor) -> Tensor:
    """Return (B,) true."""
    return torch.ones_like(reward[:, 0], dtype=torch.bool)


def _score(
    process: ReverseProcess[Any], scorer: Scorer, x0: Any, k: int, noise: Noise, lam: float, particles: int
) -> tuple[Sequence[Any], Tensor, Tensor]:
    """Decode samples and score them: samples, values (B, N, S, P), and the same times the rewards' weights."""
    samples = process.decode(x0)
    values = scorer(samples, f" at step {k} of {process.num_steps}").to(noise.key.device)
    draws = len(samples) // len(noise.key)
    values = values.reshape(len(noise.key) // particles, particles, draws, len(scorer.names))
    weighted = scorer.weighted(values)
    tilt = lam * weighted.sum(-1) if lam else torch.zeros_like(weighted.sum(-1))
    if (beyond := ~tilt.isfinite() & (weighted > -torch.inf).all(-1)).any():
        population, particle, prediction = beyond.nonzero()[0].tolist()
        raise too_large(population, float(tilt[population, particle, prediction]), k)
    return samples, values, weighted


def too_large(population: int, log_w: float, k: int) -> PopulationError:
    """Return the error for a weight beyond any number."""
    return PopulationError(population, f"a log-weight is {log_w} at step {k}: lambda times the reward is beyond any number")


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
