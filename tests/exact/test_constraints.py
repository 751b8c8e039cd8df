"""Hard constraints: rewards that are -inf for most texts leave the weighted sample unbiased, and no run stops for them."""

from itertools import islice

import pytest
import torch

from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import PSEUDO_COUNT
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import ADAPTIVITY, LAM, SHARES, Z_BOUND, Constrained, check_constrained, constrained_cases, run_case

CASES = list(constrained_cases())
SHORT = [case for case in islice(CASES, 5, None, 29) if case.adaptivity != "never"]  # 29 is prime to every factor of the table


def test_the_short_form_has_every_kind_of_case():
    for name, kinds in {"share": 3, "soft": 2, "potential": 4, "resampler": 6, "x0_samples": 2}.items():
        assert len({getattr(case, name) for case in SHORT}) == kinds, name


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_a_hard_constraint_leaves_the_law_exact(case):
    assert check_constrained(case, populations=1500).passed


@pytest.mark.parametrize("x0_samples", [1, 4])
@pytest.mark.parametrize("potential", ["difference", "max"])
def test_the_default_pseudo_count_is_exact_too(potential, x0_samples):
    """Its weights have heavier tails, so only their sum is looked at."""
    case = Constrained(0.5, True, potential, "systematic", "ess", x0_samples)
    assert abs(check_constrained(case, populations=3000, pseudo_count=PSEUDO_COUNT).z_norm) < Z_BOUND


@pytest.mark.long
def test_every_case_with_many_populations():
    assert [case for case in CASES if not check_constrained(case, populations=2000, seed=1).passed] == []


@pytest.mark.parametrize("potential", ["difference", "max", "sum"])
@pytest.mark.parametrize("x0_samples", [1, 4])
def test_predictions_that_may_say_zero_are_caught(potential, x0_samples):
    """Negative control: without a pseudo-count, particles die by their look-ahead, and mass is lost."""
    case = Constrained(0.5, False, potential, "systematic", "always", x0_samples)
    assert check_constrained(case, populations=1500, pseudo_count=0.0).z_norm < -Z_BOUND
    assert check_constrained(case, populations=1500).passed


def test_the_models_meet_their_constraints_as_often_as_they_say():
    for share in SHARES:
        model = Enumerable(tokens=3).constrained(share)
        assert float(model.tilted(1.0).sum()) == pytest.approx(share, rel=0.16)
        assert set(model.rewards.tolist()) == {0.0, -torch.inf}
    soft = Enumerable(tokens=3).constrained(0.5, soft=True)
    assert len(set(soft.rewards.tolist())) > 3


def test_a_constraint_nobody_meets_leaves_weights_flat_and_every_population_dead():
    model = Enumerable(tokens=3).constrained(0.0)
    result = run_case(model, "max", RESAMPLERS["ssp"], ADAPTIVITY["ess"], populations=7)
    assert (result.log_z == -torch.inf).all()
    assert (result.log_w == -torch.inf).all()
    for step in result.steps[:-1]:
        assert (step.log_w == step.log_w[:, :1]).all()
        assert (step.ess == 3).all()
        assert not step.resampled.any()
    assert (result.steps[-1].ess == 0).all()
    assert LAM > 0
