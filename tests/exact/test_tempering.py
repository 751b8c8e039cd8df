"""However a population tempers its weights, the law of the result is the same, at any number of particles."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch

from fktext.smc import RESAMPLERS, ess, normalize
from fktext.smc.lookahead import Nothing, Predictions, Sight, Values, judge
from fktext.smc.potentials import POTENTIALS
from fktext.smc.resamplers import Resampler
from fktext.smc.tempering import temper
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case

SHARE, THRESHOLD = 0.94, 0.97  # so high that tau is held back at a small lambda too


def random_head(features):
    """A number that has to do with the particle and nothing with its reward."""
    return (features.hidden.flatten(1) * 37.7).sin().sum(1) + features.unknown


def adversary(process, scorer, state, k, noise, lam, particles):
    """The opposite of what the particle will earn, as one guess of it has it."""
    sight, state = Predictions()(process, scorer, state, k, noise, lam, particles)
    return Sight(sight.samples, sight.values, sight.reward, -sight.log_tilt, sight.told), state


LOOK_AHEADS = {"predictions": Predictions(2), "random head": Values([random_head]), "adversary": adversary, "nothing": Nothing()}
COMPOSED = list(product(POTENTIALS, LOOK_AHEADS))


@pytest.fixture(scope="module")
def model():
    return Enumerable()


def check(model, potential, look_ahead, resampler, populations, seed):
    how = {"look_ahead": LOOK_AHEADS[look_ahead], "temper": SHARE, "populations": populations, "seed": seed}
    result = run_case(model, potential, RESAMPLERS[resampler], THRESHOLD, **how)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND
    tau = torch.stack([step.tau for step in result.steps])
    assert (tau.diff(dim=0) >= 0).all()
    assert (tau[-1] == 1).all()
    if look_ahead == "nothing" or potential == "terminal":
        assert (tau == 1).all()
    else:
        assert 0.1 < (tau[:-1] < 1).double().mean() < 0.98  # at some weighings a population is held back, at others not
        assert 0.02 < torch.stack([step.resampled for step in result.steps[:-1]]).double().mean() < 0.98


@pytest.mark.parametrize(("potential", "look_ahead"), COMPOSED)
def test_tempering_is_unbiased_whatever_it_is_composed_with(model, potential, look_ahead):
    resampler = list(RESAMPLERS)[COMPOSED.index((potential, look_ahead)) % len(RESAMPLERS)]
    check(model, potential, look_ahead, resampler, populations=800, seed=8)


@pytest.mark.long
@pytest.mark.parametrize("resampler", RESAMPLERS)
@pytest.mark.parametrize(("potential", "look_ahead"), COMPOSED)
def test_tempering_is_unbiased_with_every_resampler_too(model, potential, look_ahead, resampler):
    check(model, potential, look_ahead, resampler, populations=4000, seed=12)


@pytest.mark.parametrize(("particles", "share", "threshold"), [(2, 0.7, 1.1), (5, 0.5, 0.8), (5, 0.9, 1.1)])
def test_a_tilt_that_would_kill_most_is_unbiased_too(model, particles, share, threshold):
    how = {"particles": particles, "lam": 1.0, "temper": share, "populations": 1500, "seed": 9}
    result = run_case(model, "difference", RESAMPLERS["systematic"], threshold, **how)
    assert max(map(abs, check_law(model, result, 1.0))) < Z_BOUND


def test_a_product_that_keeps_its_last_tau_is_caught(model, monkeypatch):
    """Negative control: tau is not 1 at the end."""
    last = []

    def noted(*arguments):
        tau, tempered = temper(*arguments)
        last[:] = [tau]
        return tau, tempered

    def held_back(*arguments):
        sight, state = judge(*arguments)
        return replace(sight, log_tilt=last[0][:, None] * sight.log_tilt), state

    monkeypatch.setattr("fktext.smc.steer.temper", noted)
    monkeypatch.setattr("fktext.smc.steer.judge", held_back)
    how = {"particles": 12, "lam": 1.0, "temper": 0.98, "populations": 500}
    wrong = run_case(model, "difference", RESAMPLERS["systematic"], ADAPTIVITY["always"], **how)
    assert max(map(abs, check_law(model, wrong, 1.0))) > 2 * Z_BOUND


def test_a_base_that_is_not_tempered_is_caught(model):
    """Negative control: offspring are drawn by tempered weights, and start as if these had been the full ones."""

    def counts(weights, uniforms):
        zeros = torch.zeros_like(weights)
        return RESAMPLERS["systematic"].counts(normalize(temper(weights.log(), zeros, zeros[:, 0], SHARE)[1]), uniforms)

    wrong = Resampler("tempered", counts, RESAMPLERS["systematic"].draws)
    result = run_case(model, "difference", wrong, ADAPTIVITY["always"], lam=1.0, populations=1500)
    assert max(map(abs, check_law(model, result, 1.0))) > 2 * Z_BOUND


@pytest.mark.parametrize(("chosen", "moved", "unbiased"), [(True, False, True), (False, True, True), (True, True, False)])
def test_what_is_biased_is_a_move_that_depends_on_the_tau_that_was_chosen(chosen, moved, unbiased):
    """By listing, without chance: two particles on three states, tempered once, resampled, moved, weighed in full.

    `chosen`: tau is found for the two particles, else it is 0.5. `moved`: each copy is replaced by a draw from p * phi^tau, the
    best of the kernels that leave it invariant, as in tempered samplers; else it stays, as in a process that knows no tau.
    """
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    log_phi = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    mean = 0.0
    for pair in product(range(3), repeat=2):
        here = log_phi[list(pair)][None]
        tau = temper(here, torch.zeros_like(here), torch.zeros(1, dtype=torch.float64), 0.7)[0] if chosen else torch.tensor([0.5])
        assert not chosen or ess(tau * here) > 0.7 * 2 - 1e-9
        rest = ((1 - tau) * log_phi).exp()  # what the last weighing adds, by state
        if moved:
            tempered = p * (tau * log_phi).exp()
            last = (tempered * rest).sum() / tempered.sum()
        else:
            last = (normalize(tau * here)[0] * rest[list(pair)]).sum()
        mean += float(p[list(pair)].prod() * (tau * here).exp().mean() * last)
    exact = float((p * log_phi.exp()).sum())
    assert math.isclose(mean, exact, rel_tol=1e-9) == unbiased
    assert abs(mean / exact - 1) > 0.05 or unbiased
