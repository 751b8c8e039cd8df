"""Check exactly: a weighted sample must estimate the tilted law without bias.

For every potential, resampler and rule of adaptivity, E[Z_hat] = Z and E[Z_hat sum_i W_i 1(x_i = x)] = p(x) exp(lambda r(x))
hold at any number of particles. Both sides are compared on the enumerable model: the left by many independent small
populations, the right by listing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch

from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import LookAhead, Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS, Potential
from fktext.smc.resamplers import Resampler
from fktext.smc.schedules import At, Every, Schedule
from fktext.smc.steer import Plan, Result, steer
from fktext.testing.enumerable import Enumerable

ADAPTIVITY = {"never": 0.0, "ess": 0.95, "always": 1.1}  # ESS thresholds
LAM = 0.4  # small, so that weights are bounded enough for the central limit theorem to hold at a few thousand populations
SHARES = (0.5, 0.1, 0.01)  # base probabilities of meeting a hard constraint
DOUBT = 1.0  # pseudo-count, and large for the same reason
Z_BOUND = 5.0  # |z| of an unbiased estimate exceeds this once in two million


@dataclass(frozen=True)
class Check:
    """Tell how far an estimate is from the exact tilted law, in standard errors.

    Attributes:
        z_norm: z-score of the mean of Z_hat against Z.
        z_law: largest z-score, over all texts, of Z_hat * W(x) against p(x) exp(lambda r(x)).
    """

    potential: str
    resampler: str
    adaptivity: str
    z_norm: float
    z_law: float

    @property
    def passed(self) -> bool:
        """Within the bound; NaN does not pass."""
        return abs(self.z_norm) < Z_BOUND and self.z_law < Z_BOUND


def check_law(model: Enumerable, result: Result, lam: float, *, rarest: float = 0.0) -> tuple[float, float]:
    """Return z-scores of a steered batch of independent populations against the exact tilted law.

    Args:
        model: the enumerable model that was steered.
        result: at least some hundreds of populations (B).
        lam: the lambda it was steered with.
        rarest: leave out texts whose base probability is below this: of a text that hardly any population finds, a mean of so many
            populations has no normal distribution.

    Returns:
        z of Z_hat, and the largest |z| over texts of Z_hat * W(x).
    """
    populations = len(result.log_z)
    place = {text: index for index, text in enumerate(model.texts)}
    index = torch.tensor([place[text] for text in result.samples]).reshape(populations, -1)
    mass = result.log_w.exp().cpu() * result.log_z.exp().cpu()[:, None]  # Z_hat * W_i
    estimates = torch.zeros(populations, len(model.texts), dtype=torch.float64).scatter_add_(1, index, mass)
    exact = model.tilted(lam)

    def scores(sample: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        gap, error = sample.mean(0) - truth, sample.std(0) / math.sqrt(populations)
        return torch.where(gap == 0, gap, gap / error)

    norm = scores(estimates.sum(1), exact.sum())
    return float(norm), float(scores(estimates, exact)[model.law >= rarest].abs().max())


def run_case(
    model: Enumerable,
    potential: str | Potential,
    resampler: Resampler,
    threshold: float,
    *,
    populations: int,
    particles: int = 3,
    lam: float = LAM,
    look_ahead: LookAhead = Predictions(2),  # noqa: B008  immutable
    schedule: Schedule | None = None,
    temper: float | None = None,
    seed: int = 0,
    **process_settings: Any,
) -> Result:
    """Steer `populations` independent populations of the enumerable model."""
    keys = [population_key(seed, "exact", index) for index in range(populations)]
    plan = Plan(
        particles=particles,
        schedule=schedule or Every(1),
        potential=POTENTIALS[potential] if isinstance(potential, str) else potential,
        resampler=resampler,
        lam=lam,
        ess_threshold=threshold,
        look_ahead=look_ahead,
        temper=temper,
    )
    process = model.process(populations, particles, **process_settings)
    return steer(process, Scorer([Weighted("table", model.reward)]), Noise.of(keys, particles, str(model.denoiser.device)), plan)


def checks(*, populations: int = 2000, device: str = "cpu", seed: int = 0) -> Iterator[Check]:
    """Check every potential x resampler x adaptivity on the enumerable model.

    Args:
        populations: independent populations per case; more makes a smaller bias visible.
        device: where to run.
        seed: of the noise; the model is always the same.
    """
    model = Enumerable(device=device)
    for potential, resampler, adaptivity in product(POTENTIALS, RESAMPLERS, ADAPTIVITY):
        threshold = ADAPTIVITY[adaptivity]
        result = run_case(model, potential, RESAMPLERS[resampler], threshold, populations=populations, seed=seed)
        yield Check(potential, resampler, adaptivity, *check_law(model, result, LAM))


@dataclass(frozen=True)
class Constrained:
    """One case under a hard constraint.

    Attributes:
        share: the base probability of meeting it; `soft`: whether the texts that meet it differ in reward.
    """

    share: float
    soft: bool
    potential: str
    resampler: str
    adaptivity: str
    x0_samples: int


def constrained_cases() -> Iterator[Constrained]:
    """List every share x soft or not x potential x resampler x adaptivity x number of predictions."""
    for case in product(SHARES, (False, True), POTENTIALS, RESAMPLERS, ADAPTIVITY, (1, 4)):
        yield Constrained(*case)


def check_constrained(case: Constrained, *, populations: int, pseudo_count: float = DOUBT, seed: int = 0) -> Check:
    """Check one case against the exact law: populations that are dead at the end count as Z_hat = 0.

    Five particles a population, weighed twice before the end; texts that are rarer than 1 in 400 are not looked at one by one.
    """
    model = Enumerable(tokens=3).constrained(case.share, soft=case.soft)
    result = run_case(
        model,
        case.potential,
        RESAMPLERS[case.resampler],
        ADAPTIVITY[case.adaptivity],
        populations=populations,
        particles=5,
        look_ahead=Predictions(case.x0_samples, pseudo_count=pseudo_count),
        schedule=At([1, 3]),
        seed=seed,
    )
    return Check(case.potential, case.resampler, case.adaptivity, *check_law(model, result, LAM, rarest=1 / 400))
