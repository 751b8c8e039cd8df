"""What methods beside FK make of a run: particle Gibbs, candidates per parent, and the rules it is compared with."""

import math

import pytest
import torch

import fktext
from fktext.errors import UsageError
from fktext.models import load
from fktext.plugins import load_plugins
from fktext.population import Population
from fktext.rewards import RewardContext
from fktext.runs import Progress
from fktext.settings import STEERING, Settings
from fktext.texts.generate import generate

SMALL = {"particles": 8, "length": 10, "steps": 5, "lam": 4.0, "look_ahead": "predictions", "x0_samples": 2, "seed": 3}


@pytest.fixture(scope="module")
def model():
    return load("tiny-mdlm")


@pytest.fixture(scope="module")
def terms():
    return [load_plugins().create("sentiment", RewardContext(offline=True))]


def run(model, terms, prompts=("the book", "a day"), batch_size=None, **settings):
    steps = list(generate(model, terms, list(prompts), Settings(**{**SMALL, **settings}), batch_size=batch_size))
    return [step for step in steps if isinstance(step, Population)], [step for step in steps if isinstance(step, Progress)]


def same(population, other):
    return population.texts == other.texts and torch.equal(population.log_w, other.log_w) and population.log_z == other.log_z


@pytest.mark.parametrize("method", STEERING)
def test_results_do_not_depend_on_batches_or_on_the_order_of_prompts(model, terms, method):
    both, _ = run(model, terms, method=method, sweeps=2)
    alone, _ = run(model, terms, ["a day"], method=method, sweeps=2)
    single, _ = run(model, terms, batch_size=1, method=method, sweeps=2)
    for one, other in [(both[1], alone[0]), *zip(both, single, strict=True)]:
        assert one.texts == other.texts
        assert torch.equal(one.log_w, other.log_w)


def test_particle_gibbs_of_one_sweep_is_fk_and_of_more_the_last_one_with_all_costs(model, terms):
    fk, _ = run(model, terms)
    one, _ = run(model, terms, method="particle-gibbs", sweeps=1)
    assert all(same(*pair) for pair in zip(fk, one, strict=True))
    three, progress = run(model, terms, method="particle-gibbs", sweeps=3)
    assert progress[-1].done == progress[-1].total == 3 * SMALL["steps"] * 2
    assert [step.done for step in progress] == sorted({step.done for step in progress})
    for before, after in zip(fk, three, strict=True):
        assert after.log_z == before.log_z  # only the first sweep estimates it
        assert len(after.steps) == SMALL["steps"]
        assert after.texts != before.texts
        assert after.ledger.denoiser_rows > 2 * before.ledger.denoiser_rows
        assert after.ledger.reward_requests == 3 * before.ledger.reward_requests


def test_one_candidate_is_fk_and_more_have_fewer_parents(model, terms):
    fk, _ = run(model, terms, ess_threshold=2.0)
    one, _ = run(model, terms, ess_threshold=2.0, candidates=1)
    assert all(same(*pair) for pair in zip(fk, one, strict=True))
    four, _ = run(model, terms, ess_threshold=2.0, candidates=4)
    for population in four:
        for step in population.steps[:-1]:
            assert (step.ancestors.unique(return_counts=True)[1] % 4 == 0).all()
        assert math.isfinite(population.log_z)


@pytest.mark.parametrize(("method", "kept"), [("svdd", 2), ("beam", 2)])
def test_rules_select_and_claim_nothing(model, terms, method, kept):
    found, _ = run(model, terms, method=method)
    for population in found:
        assert math.isnan(population.log_z)
        assert not population.dead
        weighty = population.log_w > -math.inf
        assert weighty.sum() == kept
        assert population.log_w[weighty].tolist() == pytest.approx([-math.log(2)] * 2)
        assert weighty[population.best()]
        assert weighty[population.draw()]
        assert all(step.resampled for step in population.steps[:-1])
    base, _ = run(model, terms, method=method, lam=0.0)
    assert [population.texts for population in base] == [population.texts for population in run(model, terms, lam=0.0)[0]]


def test_selection_finds_higher_rewards_than_the_model_alone(model, terms):
    """Not a claim of quality: the rules do something."""
    alone, _ = run(model, terms, lam=0.0, samples=4)
    for method in ("svdd", "beam"):
        found, _ = run(model, terms, method=method, samples=4)
        means = [torch.stack([each.rewards[each.log_w > -math.inf].mean() for each in group]).mean() for group in (alone, found)]
        assert means[1] > means[0] + 0.1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "svdd", "particles": 6}, "multiple of the 4 candidates"),
        ({"method": "fk", "particles": 6, "candidates": 4}, "multiple of the 4 candidates"),
        ({"method": "beam", "candidates": 0}, "candidates must be at least 1"),
        ({"method": "beam", "look_ahead": "none"}, "look_ahead must not be 'none'"),
        ({"method": "particle-gibbs", "particles": 1}, "at least 2, got 1"),
        ({"method": "particle-gibbs", "candidates": 2}, "has no candidates"),
        ({"method": "particle-gibbs", "sweeps": 0}, "sweeps must be at least 1"),
        ({"method": "particle-gibs"}, "did you mean 'particle-gibbs'"),
    ],
)
def test_what_does_not_go_together_is_refused(asked, message):
    with pytest.raises(UsageError, match=message):
        Settings(**asked)


def test_methods_go_with_the_python_front_door():
    asked = {"method": "particle-gibbs", "sweeps": 2, "particles": 2, "length": 12, "steps": 4}
    found = fktext.generate("tiny-mdlm", "sentiment", "the book", **asked)
    assert len(found[0].texts) == 2
