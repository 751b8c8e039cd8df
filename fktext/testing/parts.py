"""Check parts of the engine that others write: that they keep its contract, and with it the law.

    from fktext.testing import check_potential

    def test_mine():
        check_potential(Square())

Each check raises AssertionError with a line that says what is wrong. The law is that of a model whose texts can be listed
(`fktext.testing.enumerable`): a correct part is refused once in some hundred thousand runs, and the noise is fixed by a seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fktext.masked.kernels import Kernel
from fktext.rewards import Scorer, Weighted
from fktext.smc.lookahead import LookAhead, Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import Potential
from fktext.smc.resamplers import Resampler
from fktext.smc.schedules import At, Every, Schedule
from fktext.smc.steer import Plan, steer
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case

SIZES = (1, 2, 3, 8)  # of populations that a resampler is tried on


def check_potential(potential: Potential, *, populations: int = 2000, seed: int = 0) -> None:
    """Check that a potential is finite where its log-tilts are, carries what follows particles, and keeps the law.

    Args:
        potential: what is checked.
        populations: independent populations per case; more sees smaller errors.
        seed: of the noise.

    Raises:
        AssertionError: it does not; says what is wrong.
    """
    tilts = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    carry = potential.init(torch.zeros_like(tilts[0]))
    for tilt in tilts:
        log_phi, carry = potential(tilt, carry)
        shapes = [tuple(each.shape) for each in (log_phi, *carry)]
        assert set(shapes) == {(2, 4)}, f"log_phi and what is carried have shapes {shapes}; expected (2, 4), as the log-tilts"
        assert torch.isfinite(log_phi).all(), f"log_phi is not finite where the log-tilts are: {log_phi.tolist()}"
    _check_steering(Plan(3, Every(1), potential=potential), populations, seed)


def check_resampler(resampler: Resampler, *, populations: int = 2000, seed: int = 0) -> None:
    """Check that offspring are N in all, unbiased, none of a particle of weight zero; and that the law is kept.

    Args: see `check_potential`.

    Raises:
        AssertionError: they are not; says what is wrong.
    """
    generator = torch.Generator().manual_seed(seed)
    for size in SIZES:
        weights = torch.rand(size, generator=generator, dtype=torch.float64)
        weights[0] = 0 if size > 1 else 1
        weights /= weights.sum()
        draws = resampler.draws(size)
        assert isinstance(draws, int), f"draws({size}) is {draws!r}; expected a number of uniforms"
        assert draws > 0, f"draws({size}) is {draws}; expected at least 1"
        rows = weights.expand(populations, size)
        uniforms = torch.rand(populations, draws, generator=generator, dtype=torch.float64)
        counts = resampler.counts(rows, uniforms.clamp(min=2.0**-53))
        assert counts.dtype == torch.int64, f"counts are {counts.dtype}; expected int64"
        assert counts.shape == (populations, size), f"counts have shape {tuple(counts.shape)}; expected {(populations, size)}"
        assert (counts >= 0).all(), "a number of offspring is negative"
        assert (counts.sum(-1) == size).all(), f"offspring of {size} particles do not add up to {size}"
        assert size == 1 or (counts[:, 0] == 0).all(), "a particle of weight zero has offspring"
        gap = counts.double().mean(0) - size * weights
        error = counts.double().std(0) / math.sqrt(populations)
        worst = (gap.abs() / error.clamp(min=1e-6)).max()
        assert worst < Z_BOUND, f"offspring are biased: the mean of one is {worst:.1f} standard errors from N times its weight"
    _check_steering(Plan(3, Every(1), resampler=resampler), populations, seed)


def check_schedule(schedule: Schedule, *, num_steps: Sequence[int] = (1, 2, 20, 128, 1000)) -> None:
    """Check that weighings are steps in order, the last step once and at the end.

    Args:
        schedule: what is checked.
        num_steps: numbers of reverse steps to ask it about.

    Raises:
        AssertionError: they are not; says what is wrong.
    """
    for steps in num_steps:
        found = schedule.weighings(steps)
        assert isinstance(found, tuple), f"weighings({steps}) is a {type(found).__name__}; expected a tuple of steps"
        assert found[-1:] == (steps,), f"weighings({steps}) ends with {found[-1:]}; expected the last step, {steps}"
        assert list(found) == sorted(set(found)), f"weighings({steps}) is not ascending: {found}"
        assert found[0] >= 1, f"weighings({steps}) begins with {found[0]}; the first step is 1"


def check_look_ahead(look_ahead: LookAhead, *, populations: int = 2000, seed: int = 0) -> None:
    """Check that a look-ahead says something finite of every particle, and that the law does not depend on what it says.

    Args: see `check_potential`.

    Raises:
        AssertionError: it does not; says what is wrong.
    """
    model = Enumerable()
    noise = Noise.of([population_key(seed, "part", index) for index in range(2)], 3)
    process, scorer = model.process(2, 3), Scorer([Weighted("table", model.reward)])
    state = process.advance(process.init(noise), 0, 2, noise)
    sight, _ = look_ahead(process, scorer, state, 2, noise, LAM, 3)
    assert sight.log_tilt.shape == (2, 3), f"log_tilt has shape {tuple(sight.log_tilt.shape)}; expected (2, 3)"
    assert torch.isfinite(sight.log_tilt).all(), f"log_tilt is not finite: {sight.log_tilt.tolist()}"
    assert sight.told.shape == (2,), f"told has shape {tuple(sight.told.shape)}; expected (2,)"
    _check_steering(Plan(3, Every(1), look_ahead=look_ahead), populations, seed)


def check_kernel(kernel: Kernel, *, populations: int = 4000, seed: int = 0) -> None:
    """Check that a kernel finishes its texts, keeps prompts, does not depend on company, and is steered without bias.

    What it is steered to is told from its own texts: sums of exp(lambda r) over many that are not steered.

    Args: see `check_potential`.

    Raises:
        AssertionError: it does not; says what is wrong.
    """
    model = Enumerable()
    mask, steps = model.denoiser.mask_id, model.num_steps
    keys = [population_key(seed, "kernel", index) for index in range(3)]
    template = torch.tensor([[1, mask, mask]])

    def finished(keys: list[int], stops: Sequence[int]) -> Tensor:
        process = kernel.build(model.denoiser, template.repeat(len(keys), 1), 2, steps, lambda ids, _: ids.tolist())
        noise = Noise.of(keys, 2)
        state: Any = process.init(noise)
        for k, k_next in zip([0, *stops], stops, strict=False):
            state = process.advance(state, k, k_next, noise)
        ids: Tensor = state.ids
        return ids

    ids = finished(keys, [steps])
    assert (ids[:, 0] == 1).all(), f"a token of the prompt was changed: {ids[:, 0].tolist()}; expected 1 everywhere"
    assert (ids != mask).all(), f"positions stay masked after {steps} steps: {ids.tolist()}"
    assert ids[:2].equal(finished(keys[:1], [steps])), "a population's tokens depend on the others of its batch"
    parts = finished(keys, list(range(1, steps + 1)))
    assert parts.equal(ids) or not kernel.steerable, (
        "the tokens depend on where the particles are weighed: on the stops of `advance`"
    )
    if kernel.steerable:
        _check_own_law(model, kernel, populations, seed)


def _check_own_law(model: Enumerable, kernel: Kernel, populations: int, seed: int) -> None:
    """Compare Z_hat W of every text, steered, with exp(lambda r) of texts that the kernel writes alone."""

    def mass(particles: int, schedule: Schedule, threshold: float, name: str) -> Tensor:
        keys = [population_key(seed, name, index) for index in range(populations)]
        templates = torch.full((populations, model.length), model.denoiser.mask_id)

        def decode(ids: Tensor, _: Tensor) -> list[str]:
            return ["".join(map(str, row)) for row in ids.tolist()]

        process = kernel.build(model.denoiser, templates, particles, model.num_steps, decode)
        plan = Plan(particles, schedule, lam=LAM, ess_threshold=threshold, look_ahead=Predictions(2))
        result = steer(process, Scorer([Weighted("table", model.reward)]), Noise.of(keys, particles), plan)
        place = {text: index for index, text in enumerate(model.texts)}
        index = torch.tensor([place[text] for text in result.samples]).reshape(populations, particles)
        own = result.log_w.exp() * result.log_z.exp()[:, None]
        return torch.zeros(populations, len(model.texts), dtype=torch.float64).scatter_add_(1, index, own)

    alone, steered = mass(3, At([]), 0.0, "alone"), mass(3, Every(1), ADAPTIVITY["ess"], "steered")
    error = ((alone.var(0) + steered.var(0)) / populations).sqrt().clamp(min=1e-12)
    worst = float(((alone.mean(0) - steered.mean(0)).abs() / error).max())
    assert worst < Z_BOUND, f"steered texts do not follow p(x) exp(lambda r(x)): one is {worst:.1f} standard errors off"


def _check_steering(plan: Plan, populations: int, seed: int) -> None:
    """Steer the enumerable model by a plan at every threshold, and compare with its exact tilted law."""
    model = Enumerable()
    how: dict[str, Any] = {"schedule": plan.schedule, "look_ahead": plan.look_ahead, "populations": populations, "seed": seed}
    for name, threshold in ADAPTIVITY.items():
        result = run_case(model, plan.potential, plan.resampler, threshold, **how)
        worst = max(abs(z) for z in check_law(model, result, LAM))
        assert worst < Z_BOUND, f"the tilted law is missed by {worst:.1f} standard errors (resampling: {name})"
