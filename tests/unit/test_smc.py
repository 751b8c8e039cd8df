"""Weights and resamplers, at the edges of floating point."""

import pytest
import torch

from fktext.smc import RESAMPLERS, all_dead, ancestors_from_counts, ess, log_mean_exp, normalize
from fktext.smc.resamplers import Resampler

ALMOST_ONE = 1 - 2.0**-53
TINY = 2.0**-53


def test_ess_of_equal_and_one_hot_weights():
    log_w = torch.tensor([[0.0, 0.0, 0.0, 0.0], [5.0, -torch.inf, -torch.inf, -torch.inf]], dtype=torch.float64)
    assert ess(log_w).tolist() == [4.0, 1.0]


def test_ess_is_invariant_to_scale():
    log_w = torch.randn(5, 8, dtype=torch.float64)
    torch.testing.assert_close(ess(log_w), ess(log_w - 1e4))


def test_log_mean_exp_survives_huge_and_dead_weights():
    log_w = torch.tensor([[1e4, 1e4], [-1e4, -torch.inf], [-torch.inf, -torch.inf]], dtype=torch.float64)
    expected = torch.tensor([1e4, -1e4 - torch.log(torch.tensor(2.0, dtype=torch.float64)), -torch.inf], dtype=torch.float64)
    torch.testing.assert_close(log_mean_exp(log_w), expected)
    assert all_dead(log_w).tolist() == [False, False, True]


def test_large_tilts_do_not_tie():
    # gains of 3 and 8 nats at lambda = 10 must get different weights: a linear-space clamp at 1e10 would tie them
    weights = normalize(torch.tensor([[30.0, 80.0]], dtype=torch.float64))
    assert weights[0, 0] / weights[0, 1] == pytest.approx(torch.exp(torch.tensor(-50.0)).item(), rel=1e-6)


@pytest.mark.parametrize("name", RESAMPLERS)
@pytest.mark.parametrize("uniform", [TINY, 0.5, ALMOST_ONE])
def test_dead_particles_have_no_offspring_at_the_edges(name, uniform):
    # weights whose float64 cumulative sum ends below one, with dead particles first, in the middle and last
    live = torch.full((10,), 0.1, dtype=torch.float64)
    assert live.cumsum(0)[-1] < 1
    dead = torch.zeros(1, dtype=torch.float64)
    log_w = torch.cat([dead, live[:5], dead, live[5:], dead]).log()[None]
    resampler = RESAMPLERS[name]
    ancestors = resampler(log_w, torch.full((1, resampler.draws(13)), uniform, dtype=torch.float64))
    assert log_w.gather(1, ancestors).isfinite().all()


def test_naive_inverse_cdf_picks_the_dead():
    """Negative control: the same edge with cumulative weights as they come and a clamp, as often written."""

    def naive(weights, uniforms):
        cumulative = weights.cumsum(-1)
        chosen = torch.searchsorted(cumulative, uniforms, right=True).clamp(max=weights.shape[-1] - 1)
        return torch.zeros_like(weights, dtype=torch.int64).scatter_add_(-1, chosen, torch.ones_like(chosen))

    weights = torch.tensor([[0.1] * 10 + [0.0]], dtype=torch.float64)
    assert weights.cumsum(-1)[0, -1] <= ALMOST_ONE
    uniforms = torch.full((1, 11), ALMOST_ONE, dtype=torch.float64)
    assert naive(weights, uniforms)[0, -1] > 0
    assert RESAMPLERS["multinomial"].counts(weights, uniforms)[0, -1] == 0


@pytest.mark.parametrize("name", ["systematic", "stratified", "residual", "ssp", "killing"])
def test_equal_weights_are_left_alone(name):
    resampler = RESAMPLERS[name]
    for size in (1, 2, 3, 7, 10, 49):
        uniforms = torch.rand(50, resampler.draws(size), dtype=torch.float64)
        ancestors = resampler(torch.zeros(50, size, dtype=torch.float64), uniforms)
        assert (ancestors == torch.arange(size)).all()


def test_survivors_stay_in_place():
    counts = torch.tensor([[0, 2, 0, 1, 3, 0], [1, 1, 1, 1, 1, 1], [6, 0, 0, 0, 0, 0]])
    ancestors = ancestors_from_counts(counts)
    assert ancestors.tolist() == [[1, 1, 4, 3, 4, 4], [0, 1, 2, 3, 4, 5], [0] * 6]


def test_one_particle_is_its_own_ancestor():
    for resampler in RESAMPLERS.values():
        uniforms = torch.rand(4, resampler.draws(1), dtype=torch.float64)
        assert (resampler(torch.full((4, 1), -1e5, dtype=torch.float64), uniforms) == 0).all()


def test_a_custom_scheme_needs_counts_only():
    greedy = Resampler("greedy", lambda w, u: (w == w.amax(-1, keepdim=True)) * w.shape[-1], lambda size: 0)
    log_w = torch.tensor([[0.0, 2.0, 1.0]], dtype=torch.float64)
    assert greedy(log_w, torch.empty(1, 0)).tolist() == [[1, 1, 1]]
