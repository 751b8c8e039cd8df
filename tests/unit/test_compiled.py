"""Compiled networks: the same texts, few shapes."""

import pytest
import torch

import tiny
from fktext.errors import UsageError
from fktext.masked.compiled import LARGEST, Compiled, pieces
from fktext.masked.process import MaskedDiffusion
from fktext.models import load
from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import Every
from fktext.smc.steer import Plan, steer
from fktext.text import Text


def network(time_conditioning=False):
    net = tiny.dit(30, 10, time_conditioning=time_conditioning).eval().requires_grad_(False)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


class Sums:
    def score(self, samples):
        return [-(sum(map(int, sample.split())) % 7) / 3 for sample in samples]


def run(net):
    keys = [population_key(0, name) for name in "ab"]
    templates = torch.full((2, 10), net.mask_id, device=net.device)

    def decode(ids, population):
        return [Text(" ".join(map(str, row))) for row in ids.tolist()]

    plan = Plan(3, Every(5), POTENTIALS["difference"], RESAMPLERS["systematic"], 2.0, 0.9, look_ahead=Predictions(2))
    noise = Noise.of(keys, 3, net.device)
    return steer(MaskedDiffusion(net, templates, 3, 20, decode), Scorer([Weighted("sums", Sums())]), noise, plan)


@pytest.mark.parametrize("rows", range(1, 300))
def test_pieces_hold_all_rows_and_little_more(rows):
    sizes = list(pieces(rows))
    assert all(size in (1, 2, 4, 8, 16, 32, 64, LARGEST) for size in sizes)
    assert sum(sizes[:-1]) < rows <= sum(sizes) <= 1.25 * rows
    assert sizes == sorted(sizes, reverse=True)


class Recorder:
    """In the place of torch.compile: what a function is compiled for, and what it is given."""

    def __init__(self):
        self.shapes = []

    def __call__(self, function, **options):
        assert options == {"dynamic": False, "mode": None}

        def compiled(ids, t):
            assert len(ids) == len(t)
            self.shapes.append(tuple(ids.shape))
            return function(ids, t)

        return compiled


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_padding_and_pieces_change_nothing(monkeypatch, time_conditioning):
    recorder = Recorder()
    monkeypatch.setattr(torch, "compile", recorder)
    net = network(time_conditioning)
    compiled = Compiled(net)
    for rows in (1, 7, 11, 200):
        ids, t = torch.randint(0, 30, (rows, 10)), torch.rand(rows)
        torch.testing.assert_close(compiled.encode(ids, t), net.encode(ids, t), rtol=1e-5, atol=1e-6)
    assert recorder.shapes == [(size, 10) for size in (1, 8, 8, 2, 1, 128, 64, 8)]
    plain, got = run(net), run(compiled)
    assert got.samples == plain.samples
    torch.testing.assert_close(got.log_w, plain.log_w)
    assert got.ledger.denoiser_rows == plain.ledger.denoiser_rows  # copies that pad are not counted


def test_a_batch_that_does_not_fit_is_still_halved(monkeypatch):
    def small(function, **_):
        def compiled(ids, t):
            if len(ids) > 2:
                raise torch.OutOfMemoryError("a device of two rows")
            return function(ids, t)

        return compiled

    net = network()
    plain = run(net)
    monkeypatch.setattr(torch, "compile", small)
    assert run(Compiled(net)).samples == plain.samples


@pytest.mark.long
def test_compiled_code_gives_the_same_texts():
    net = network()
    compiled = Compiled(net)
    plain, got = run(net), run(compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0  # something was compiled
    assert got.samples == plain.samples
    torch.testing.assert_close(got.log_w, plain.log_w)
    torch.testing.assert_close(got.log_z, plain.log_z)


def test_only_masked_models_are_compiled():
    with pytest.raises(UsageError, match=r"tiny-ssdlm.*masked models"):
        load("tiny-ssdlm", offline=True).compiled()


@pytest.mark.gpu
def test_graphs_give_the_same_texts():
    net = network().to("cuda")
    plain, got = run(net), run(Compiled(net))
    assert got.samples == plain.samples
