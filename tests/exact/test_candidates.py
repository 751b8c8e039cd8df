"""Candidates leave the law as it is; choosing among them without weighing their parents does not, nor do selection rules."""

import math

import pytest
import torch

from fktext.errors import UsageError
from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS, baselines, normalize
from fktext.smc.baselines import beam, best_candidate, selection_steps
from fktext.smc.candidates import candidates
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.resamplers import Resampler
from fktext.smc.schedules import Every
from fktext.smc.steer import Plan, collect
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case


@pytest.fixture(scope="module")
def model():
    return Enumerable()


@pytest.mark.parametrize("scheme", RESAMPLERS)
def test_offspring_come_in_groups_and_their_mean_is_by_weight(scheme):
    rows, weights = 20_000, torch.tensor([0.05, 0.3, 0.0, 0.25, 0.1, 0.3], dtype=torch.float64)
    resampler = candidates(RESAMPLERS[scheme], 3)
    uniforms = torch.rand(rows, resampler.draws(6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = resampler.counts(weights.expand(rows, 6).contiguous(), uniforms)
    assert (counts.sum(-1) == 6).all()
    assert (counts % 3 == 0).all()
    gap, error = counts.double().mean(0) - 6 * weights, counts.double().std(0) / math.sqrt(rows)
    assert counts[:, 2].sum() == 0
    assert (gap.abs() < Z_BOUND * error)[weights > 0].all()
    if scheme == "systematic":  # two draws, half a turn apart
        start = uniforms[:, 0] / 6 + (uniforms[:, 1] * 3).floor() / 6
        drawn = torch.searchsorted(weights.cumsum(0), torch.stack([start, start + 0.5], -1))
        assert torch.equal(counts, 3 * torch.nn.functional.one_hot(drawn, 6).sum(1))


@pytest.mark.parametrize("adaptivity", ADAPTIVITY)
@pytest.mark.parametrize(("scheme", "number"), [(name, 2) for name in RESAMPLERS] + [("systematic", 4), ("multinomial", 4)])
def test_candidates_are_unbiased(model, scheme, number, adaptivity):
    how = {"populations": 1000, "particles": 4, "seed": 4}
    result = run_case(model, "difference", candidates(RESAMPLERS[scheme], number), ADAPTIVITY[adaptivity], **how)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND


def test_parents_that_forget_the_mean_of_their_candidates_are_caught(model):
    """Negative control: nested SMC without its outer weights."""

    def counts(weights, uniforms):
        groups = weights.unflatten(-1, (-1, 2))
        chosen = (uniforms * groups.sum(-1) > groups[..., 0]).long()[..., None]
        return torch.zeros_like(groups, dtype=torch.int64).scatter_(-1, chosen, 2).flatten(1)

    wrong = Resampler("unweighted nested", counts, lambda size: size // 2)
    how = {"populations": 4000, "particles": 4, "lam": 1.0}
    result = run_case(model, "difference", wrong, ADAPTIVITY["always"], **how)
    assert max(map(abs, check_law(model, result, 1.0))) > 2 * Z_BOUND
    right = run_case(model, "difference", candidates(RESAMPLERS["multinomial"], 2), ADAPTIVITY["always"], **how)
    assert max(map(abs, check_law(model, right, 1.0))) < Z_BOUND


def selected(model, rule, populations=400, particles=4, **settings):
    plan = Plan(particles, Every(1), **{"resampler": rule, "lam": 2.0, "look_ahead": Predictions(2), **settings})
    noise = Noise.of([population_key(0, "selected", index) for index in range(populations)], particles)
    return list(selection_steps(model.process(populations, particles), Scorer([Weighted("table", model.reward)]), noise, plan))


def test_svdd_keeps_the_best_of_each_parent_and_beam_the_best_of_all(model):
    for steps, groups in ((selected(model, best_candidate(2)), 2), (selected(model, beam(2)), 1)):
        for step in steps[:-1]:
            assert step.resampled.all()
            kept = torch.zeros(step.reward.shape, dtype=torch.int64).scatter_add_(
                1, step.ancestors, torch.ones_like(step.ancestors)
            )
            assert ((kept == 0) | (kept == 2)).all()
            tilt = (2.0 * step.values.sum(-1)).logsumexp(-1)  # of two predictions, but for a constant
            worst_kept = tilt.masked_fill(kept == 0, torch.inf).unflatten(-1, (groups, -1)).amin(-1)
            best_left = tilt.masked_fill(kept != 0, -torch.inf).unflatten(-1, (groups, -1)).amax(-1)
            assert (worst_kept >= best_left - 1e-9).all()


@pytest.mark.parametrize("rule", ["best_candidate", "beam"])
def test_selection_rules_claim_no_law_and_no_z(model, rule):
    steps = selected(model, getattr(baselines, rule)(2))
    result = collect(iter(steps))
    assert result.log_z.isnan().all()
    assert all(step.log_z.isnan().all() for step in steps)
    kept = result.log_w > -torch.inf
    assert (kept.sum(-1) == 2).all()
    assert torch.equal(result.log_w.exp()[kept], torch.full((800,), 0.5, dtype=torch.float64))
    best = result.reward.amax(-1)
    assert (result.reward.masked_fill(~kept, -torch.inf).amax(-1) == best).all()


@pytest.mark.parametrize("rule", ["best_candidate", "beam"])
def test_selection_rules_are_caught_where_they_are_taken_for_resampling(model, rule):
    """Negative control, and the reason why they have neither weights nor Z."""
    how = {"populations": 1000, "particles": 4, "lam": 1.0}
    result = run_case(model, "difference", getattr(baselines, rule)(2), ADAPTIVITY["always"], **how)
    assert max(map(abs, check_law(model, result, 1.0))) > 2 * Z_BOUND


def test_dead_samples_and_lambda_zero(model):
    rare = model.constrained(0.1)
    result = collect(iter(selected(rare, beam(2))))
    bad = result.reward == -torch.inf
    assert (result.log_w[bad] == -torch.inf).all()
    dead = bad.all(-1)
    assert 0 < dead.sum() < len(dead)
    assert torch.allclose(result.log_w.exp().sum(-1)[~dead], torch.ones((~dead).sum(), dtype=torch.float64))
    free = collect(iter(selected(model, beam(2), lam=0.0, ess_threshold=0.0)))
    assert torch.equal(normalize(free.log_w), torch.full_like(free.log_w, 0.25))


@pytest.mark.parametrize("make", [lambda number: candidates(RESAMPLERS["ssp"], number), best_candidate, beam])
def test_particles_that_are_no_multiple_are_told_of(model, make):
    with pytest.raises(UsageError, match="multiple of the 3 candidates"):
        run_case(model, "difference", make(3), 1.1, populations=2, particles=4)
    with pytest.raises(UsageError, match="at least one"):
        candidates(RESAMPLERS["ssp"], 0)
