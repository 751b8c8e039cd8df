"""Log-tilts of unfinished particles: the plain mean where rewards are finite, smoothed and finite where they are not."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fktext.smc import log_mean_exp
from fktext.smc.lookahead import log_tilt

INF = math.inf


def rewards(*particles):
    """One population of one reward: each particle's predictions."""
    return torch.tensor([particles], dtype=torch.float64)[..., None]


@pytest.mark.parametrize("average", ["tilt", "reward"])
def test_finite_rewards_are_averaged_as_ever_bit_for_bit(average):
    weighted = torch.randn(3, 5, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total = weighted.sum(-1)
    expected = log_mean_exp(7.0 * total) if average == "tilt" else 7.0 * log_mean_exp(total)
    found, told = log_tilt(weighted, 7.0, 0.5, average=average)
    assert torch.equal(found, expected)
    assert told.all()


def test_a_constraint_met_by_h_of_s_predictions_is_h_plus_c_of_s_plus_c():
    found, _ = log_tilt(rewards([0.0, 0.0, -INF, -INF], [-INF] * 4, [0.0] * 4), 10.0, 0.5)
    torch.testing.assert_close(found.exp(), torch.tensor([[2.5 / 4.5, 0.5 / 4.5, 1.0]], dtype=torch.float64))


def test_a_prediction_that_fails_is_never_worth_more_than_the_worst_that_does_not():
    found, _ = log_tilt(rewards([-6.0], [-INF], [-2.0]), 1.0, 1.0)
    assert found.tolist() == [[-6.0, pytest.approx(-6.0 - math.log(2)), -2.0]]


def test_soft_rewards_go_on_steering_where_no_prediction_meets_a_constraint():
    soft = torch.tensor([[[-1.0], [-3.0]]], dtype=torch.float64)
    found, told = log_tilt(torch.stack([soft, torch.full_like(soft, -INF)], -1), 2.0, 1.0)
    assert float(found[0, 0] - found[0, 1]) == pytest.approx(4.0)
    assert told.tolist() == [True]


def test_a_population_of_failures_is_told_nothing():
    both = torch.cat([rewards([-INF], [-INF]), rewards([-INF], [0.0])])
    found, told = log_tilt(both, 3.0, 1.0)
    assert told.tolist() == [False, True]
    assert found[0, 0] == found[0, 1]


def test_other_populations_do_not_matter():
    one, other = rewards([-2.0, -INF], [-INF, -INF]), rewards([-9.0, -9.0], [-1.0, -INF])
    assert torch.equal(log_tilt(torch.cat([one, other]), 2.0, 1.0)[0][:1], log_tilt(one, 2.0, 1.0)[0])


values = st.one_of(st.just(-INF), st.floats(-50, 5))


@given(st.lists(st.lists(values, min_size=6, max_size=6), min_size=1, max_size=4), st.floats(0.01, 20), st.floats(1e-3, 100))
def test_it_is_finite_whatever_the_rewards(rows, lam, pseudo_count):
    weighted = torch.tensor(rows, dtype=torch.float64).reshape(1, len(rows), 3, 2)
    for average in ("tilt", "reward"):
        assert log_tilt(weighted, lam, pseudo_count, average=average)[0].isfinite().all()


def test_without_a_pseudo_count_it_is_the_plain_mean():
    assert log_tilt(rewards([-INF, -INF], [0.0, -INF]), 1.0, 0.0)[0].tolist() == [[-INF, pytest.approx(math.log(0.5))]]
