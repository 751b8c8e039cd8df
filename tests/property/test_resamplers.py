"""Laws every resampling scheme obeys, for any weights."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fktext.smc import RESAMPLERS, ess

log_weights = st.lists(
    st.one_of(st.floats(-800, 800), st.just(float("-inf")), st.floats(-1e-12, 1e-12)), min_size=1, max_size=24
).filter(lambda row: max(row) > float("-inf"))
schemes = st.sampled_from(sorted(RESAMPLERS))
edges = st.one_of(st.just(2.0**-53), st.just(1 - 2.0**-53), st.floats(2.0**-53, 1 - 2.0**-53))


@given(row=log_weights, name=schemes, data=st.data())
@settings(max_examples=300, deadline=None)
def test_offspring_number_n_and_never_come_from_the_dead(row, name, data):
    resampler, size = RESAMPLERS[name], len(row)
    log_w = torch.tensor([row], dtype=torch.float64)
    draws = resampler.draws(size)
    uniforms = torch.tensor([data.draw(st.lists(edges, min_size=draws, max_size=draws))], dtype=torch.float64)
    counts = resampler.counts(torch.softmax(log_w, -1), uniforms)
    assert counts.sum() == size
    assert (counts >= 0).all()
    assert (counts[log_w == -torch.inf] == 0).all()
    ancestors = resampler(log_w, uniforms)
    assert torch.bincount(ancestors[0], minlength=size).tolist() == counts[0].tolist()
    stays = counts[0] > 0
    assert (ancestors[0][stays] == torch.arange(size)[stays]).all()


@given(row=log_weights, data=st.data())
@settings(max_examples=150, deadline=None)
def test_systematic_and_ssp_round_to_a_neighbour(row, data):
    weights = torch.softmax(torch.tensor([row], dtype=torch.float64), -1)
    for name in ("systematic", "ssp"):
        draws = RESAMPLERS[name].draws(len(row))
        uniforms = torch.tensor([data.draw(st.lists(edges, min_size=draws, max_size=draws))], dtype=torch.float64)
        off = RESAMPLERS[name].counts(weights, uniforms) - len(row) * weights
        assert (off.abs() < 1 + 1e-9).all()


@given(row=log_weights)
def test_ess_is_between_one_and_n(row):
    size = ess(torch.tensor([row], dtype=torch.float64))
    assert 1 <= size <= len(row)


def test_expected_offspring_is_n_times_weight():
    weights = torch.softmax(torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=torch.float64), -1)
    weights[2] = 0
    weights = weights / weights.sum()
    rounds = 40_000
    generator = torch.Generator().manual_seed(1)
    for name, resampler in RESAMPLERS.items():
        uniforms = torch.rand(rounds, resampler.draws(7), generator=generator, dtype=torch.float64)
        counts = resampler.counts(weights.expand(rounds, -1), uniforms).double()
        error = counts.std(0) / rounds**0.5
        z = (counts.mean(0) - 7 * weights) / error.clamp(min=1e-12)
        assert z[weights > 0].abs().max() < 5, name
        assert counts[:, 2].sum() == 0
