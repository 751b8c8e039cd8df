"""Run a short form of the exactness tests on the user's own machine and device: `fktext selftest`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS, ess
from fktext.smc.conditional import Path, Recording, Sweep
from fktext.smc.lookahead import PSEUDO_COUNT, Nothing, Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.process import gather
from fktext.smc.resamplers import Resampler
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, Result, steer
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import ADAPTIVITY, DOUBT, LAM, Z_BOUND, check_law, run_case
from fktext.testing.lookaheads import LOOK_AHEADS, trusting
from fktext.testing.proposals import GuidedEnumerable

ACCEPT = 9  # a stream of noise that nothing else draws from


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        check: what was tried; `expected` what should come out, `measured` what did.
        passed: whether they agree.
    """

    check: str
    expected: str
    measured: str
    passed: bool


def run(*, device: str = "cpu", seed: int = 0, populations: int = 1000) -> Iterator[Row]:
    """Check the engine against the exact law of an enumerable masked diffusion.

    Args:
        device: where to run, such as "cpu" or "cuda".
        seed: of the noise.
        populations: independent populations per check; more sees smaller errors.

    Yields:
        A row per check as it finishes; the last six are negative controls, which pass when a wrong sampler is caught.
    """
    model = Enumerable(device=device)
    for potential in POTENTIALS:
        for resampler in RESAMPLERS.values():
            result = run_case(model, potential, resampler, ADAPTIVITY["ess"], populations=populations, seed=seed)
            worst = _worst(model, result, LAM)
            yield _holds(f"{potential}, {resampler.name}", worst)

    tight = Enumerable(tokens=3, device=device).constrained(0.1)
    for potential in POTENTIALS:
        worst = _worst(tight, _under_constraint(tight, potential, populations, seed, pseudo_count=DOUBT), LAM)
        yield _holds(f"{potential}, hard constraint", worst)

    held = run_case(model, "difference", RESAMPLERS["systematic"], 1.1, populations=populations, lam=1.0, temper=0.9, seed=seed)
    worst = _worst(model, held, 1.0)
    yield _holds("difference, tempered", worst)

    yield from _look_aheads(model, populations, seed)

    for potential in POTENTIALS:
        led = _led(GuidedEnumerable(device=device), potential, populations, seed)
        worst = _worst(model, led, LAM)
        yield _holds(f"{potential}, guided proposals", worst)

    swept, best = _swept(model, populations, seed, device)
    yield _holds("a particle Gibbs sweep", swept)

    base, one = _plain(model, 1, device, seed), _plain(model, 1, device, seed, steered=True)
    same = sum(a == b for a, b in zip(base.samples, one.samples, strict=True))
    yield Row("N = 1 is the base sampler", "200 of 200 texts equal", f"{same} of 200", same == 200)

    flat = _plain(model, 8, device, seed, steered=True, lam=0.0)
    own = bool((flat.roots.cpu() == torch.arange(8)).all())
    yield Row("lambda = 0 keeps every lineage", "identity", "identity" if own else "drift", own)

    yield _caught("the best lineage is kept", best)
    yield from _controls(model, tight, populations, seed, device)


def _holds(name: str, worst: float) -> Row:
    """Describe a check that a sampler keeps the law."""
    return Row(name, f"|z| < {Z_BOUND:g}", f"|z| = {worst:.2f}", worst < Z_BOUND)


def _caught(name: str, worst: float) -> Row:
    """Describe a check that a wrong sampler is seen to leave the law."""
    return Row(f"control: {name}", f"|z| > {Z_BOUND:g}", f"|z| = {worst:.2f}", worst > Z_BOUND)


def _look_aheads(model: Enumerable, populations: int, seed: int) -> Iterator[Row]:
    """Check that whatever is said of unfinished particles, the law is the same."""
    for name, look_ahead in LOOK_AHEADS.items():
        for potential in POTENTIALS if name != "nothing" else ("difference",):  # a potential of nothing is as any other
            how: dict[str, Any] = {"populations": populations, "look_ahead": look_ahead, "seed": seed}
            worst = _worst(model, run_case(model, potential, RESAMPLERS["systematic"], ADAPTIVITY["ess"], **how), LAM)
            yield _holds(f"{potential}, look-ahead: {name}", worst)


def _controls(model: Enumerable, tight: Enumerable, populations: int, seed: int, device: str) -> Iterator[Row]:
    """Run samplers with one fault each."""
    forgetful = Resampler("forgetful", _forgetful, lambda size: 1)
    wrong = run_case(model, "difference", forgetful, ADAPTIVITY["always"], populations=populations, lam=1.0, seed=seed)
    caught = _worst(model, wrong, 1.0)
    yield _caught("weights forgotten", caught)

    wrong = _under_constraint(tight, "difference", populations, seed, pseudo_count=0.0)
    caught = _worst(tight, wrong, LAM)
    yield _caught("a guess may say zero", caught)

    wrong = run_case(trusting(model), "difference", RESAMPLERS["systematic"], ADAPTIVITY["ess"], populations=populations, seed=seed)
    caught = _worst(model, wrong, LAM)
    yield _caught("a value is trusted to the end", caught)

    wrong = _led(GuidedEnumerable(corrected=False, device=device), "difference", populations, seed)
    caught = _worst(model, wrong, LAM)
    yield _caught("guidance without correction", caught)

    weights = torch.tensor([[0.1] * 10 + [0.0]], dtype=torch.float64, device=device)
    edge = torch.full((1, 11), 1 - 2.0**-53, dtype=torch.float64, device=device)
    naive = torch.searchsorted(weights.cumsum(-1), edge, right=True).clamp(max=10)
    dead = int((naive == 10).sum()), int(RESAMPLERS["multinomial"].counts(weights, edge)[0, 10])
    yield Row(
        "control: naive inverse CDF at the edge", "picks the dead; ours never", f"{dead[0]}; {dead[1]}", dead[0] > 0 == dead[1]
    )


def _swept(model: Enumerable, populations: int, seed: int, device: str) -> tuple[float, float]:
    """Sweep exact paths, drawn by rejection, once: largest |z| over texts of the lineages drawn by weight, and of the best."""
    tried, scorer = 4 * populations, Scorer([Weighted("table", model.reward)])
    process = Recording(model.process(tried, 1))
    noise = Noise.of([population_key(seed, "reference", index) for index in range(tried)], 1, device)
    drawn = steer(process, scorer, noise, Plan(1, Every(1), lam=1.0, look_ahead=Nothing()))
    accepted = noise.uniform(ACCEPT, 0, 0).log().cpu() < drawn.reward[:, 0].cpu() - model.rewards.max()
    rows = accepted.nonzero()[:, 0].to(device)
    path = Path({k: gather(state, rows) for k, state in process.states.items()}, torch.ones_like(rows, dtype=torch.bool))

    particles = 6
    noise = Noise.of([population_key(seed, "sweep", index) for index in range(len(rows))], particles, device)
    plan = Plan(particles, Every(1), lam=1.0, ess_threshold=0.8, look_ahead=Predictions(1))
    sweep = Sweep(model.process(len(rows), particles), scorer, noise, plan, path)
    *_, last = sweep
    assert sweep.path is not None
    chosen = model.process(len(rows), 1).decode(sweep.path.states[model.num_steps].ids)
    best = [last.samples[place] for place in (particles * torch.arange(len(rows)) + last.log_w.argmax(-1).cpu()).tolist()]

    law = model.tilted(1.0) / model.tilted(1.0).sum()

    def worst(texts: Sequence[str]) -> float:
        counts = torch.tensor([list(texts).count(text) for text in model.texts]).double()
        return float(((counts - len(rows) * law) / (len(rows) * law * (1 - law)).sqrt()).abs().max())

    return worst(chosen), worst(best)


def _led(model: Enumerable, potential: str, populations: int, seed: int) -> Result:
    return run_case(model, potential, RESAMPLERS["systematic"], ADAPTIVITY["ess"], populations=populations, seed=seed)


def _worst(model: Enumerable, result: Result, lam: float) -> float:
    return max(abs(z) for z in check_law(model, result, lam, rarest=1 / 400))


def _under_constraint(model: Enumerable, potential: str, populations: int, seed: int, pseudo_count: float = PSEUDO_COUNT) -> Result:
    how: dict[str, Any] = {
        "populations": populations,
        "particles": 5,
        "look_ahead": Predictions(pseudo_count=pseudo_count),
        "seed": seed,
    }
    return run_case(model, potential, RESAMPLERS["systematic"], ADAPTIVITY["always"], **how)


def _plain(model: Enumerable, particles: int, device: str, seed: int, *, steered: bool = False, lam: float = 1.0) -> Result:
    keys = [population_key(seed, "selftest", index) for index in range(200)]
    plan = Plan(particles, Every(1) if steered else At([]), lam=lam, ess_threshold=1.1 if steered else 0.0)
    scorer = Scorer([Weighted("table", model.reward)])
    return steer(model.process(len(keys), particles), scorer, Noise.of(keys, particles, device), plan)


def _forgetful(weights: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Resample below the threshold, drop the weights above it: a known mistake."""
    low = ess(weights.log()) < 0.5 * weights.shape[-1]
    return torch.where(
        low[:, None], RESAMPLERS["systematic"].counts(weights, uniforms), torch.ones_like(weights, dtype=torch.int64)
    )
