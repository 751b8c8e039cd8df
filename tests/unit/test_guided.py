"""The gradient of a learned value as scores of tokens, on small random networks."""

import pytest
import torch
import transformers

import tiny
from fktext.errors import ModelError, UsageError
from fktext.masked.compiled import Compiled
from fktext.masked.guided import Gradient, Guided
from fktext.masked.kernels import KERNELS
from fktext.masked.mlm import MaskedLM
from fktext.masked.process import MaskedDiffusion
from fktext.smc.noise import Noise
from fktext.smc.process import Features, Proposing
from fktext.values.head import Head

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PLACES = {"vocab_size": 90, "max_position_embeddings": 40, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LIVE = {"hidden_dim": 32, "n_blocks": 2, "time_conditioning": True}


def masked_lm(config):
    return MaskedLM(random(transformers.AutoModelForMaskedLM.from_config(config).eval()), 4)


NETWORKS = {
    "bert": lambda: masked_lm(transformers.BertConfig(**SIZES, **PLACES)),
    "roberta": lambda: masked_lm(transformers.RobertaConfig(**SIZES, **PLACES)),
    "albert": lambda: masked_lm(transformers.AlbertConfig(**SIZES, **PLACES, embedding_size=16)),
    "modernbert": lambda: masked_lm(transformers.ModernBertConfig(**SIZES, **PLACES, cls_token_id=1, sep_token_id=2)),
    "dit": lambda: random(tiny.dit(90, 40, **LIVE | {"time_conditioning": False})),
    "dit with time": lambda: random(tiny.dit(90, 40, **LIVE)),
}


def random(net):
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return net


@pytest.mark.parametrize("name", NETWORKS)
def test_slopes_are_the_derivative_of_the_value_and_embeddings_do_for_tokens(name):
    net, rng = NETWORKS[name](), torch.Generator().manual_seed(1)
    ids, t = torch.randint(5, 80, (2, 9), generator=rng), torch.tensor([0.7, 0.3])
    ids[:, 3:6] = net.mask_id
    with torch.no_grad():
        hidden, table = net.encode(ids, t), net.embeddings()
        torch.testing.assert_close(net.encode_embedded(table[ids], t), hidden)
        heads = [random(Head(hidden.shape[-1], link)).requires_grad_(False) for link in ("logistic", "mean")]

    def value(embedded):
        features = Features(net.encode_embedded(embedded, t), (ids == net.mask_id).float().mean(1))
        return 3 * (2 * heads[0](features) - heads[1](features))

    with torch.inference_mode():  # as the process asks
        slopes = Gradient(net, heads, [2.0, -1.0], 3.0).slopes(ids, t)
        scores = Gradient(net, heads, [2.0, -1.0], 3.0).scores(slopes[:, 4])
        move = torch.zeros_like(table[ids])
        move[:, 4] = 1e-2 * (table[7] - table[net.mask_id]) / (table[7] - table[net.mask_id]).norm()
        rise = (value(table[ids] + move) - value(table[ids] - move)) / (2e-2)
        along = scores[:, 7] / (table[7] - table[net.mask_id]).norm()
    torch.testing.assert_close(along, rise, rtol=0.05, atol=2e-3)
    assert along.abs().max() > 1e-3
    assert scores.shape == (2, net.vocab_size)
    torch.testing.assert_close(scores[:, net.mask_id], torch.zeros(2), rtol=0, atol=1e-5)


def guided(net, kernel="ancestral", scores=None, **more):
    templates = torch.full((1, 6), net.mask_id)
    process = KERNELS[kernel].build(net, templates, 3, 8, decode=list)
    return Guided(process, scores or Gradient(net, [Head(32, "mean").requires_grad_(False)], [1.0], 4.0), 1.0, **more)


def test_a_guided_network_stays_lazy_and_counts_its_gradients_apart():
    net = NETWORKS["bert"]()
    process, noise = guided(net), Noise.of([3], 3)
    state = process.init(noise)
    for k in range(0, 8, 2):
        state = process.advance(state, k, k + 2, noise)
    assert not (state.own.ids == net.mask_id).any()
    assert process.ledger.denoiser_rows <= 3 * 6
    assert 1 <= process.ledger.gradient_rows <= 1 + 3 * 3  # at first all particles are one row
    assert isinstance(process, Proposing)
    assert (process.log_ratio(state) != 0).all()


def test_without_the_correction_weights_know_nothing_and_texts_are_the_same():
    net = NETWORKS["bert"]()
    noise, torch_head = Noise.of([3], 3), Head(32, "mean").requires_grad_(False)
    scores = Gradient(net, [torch_head], [1.0], 40.0)
    with_it, without = (guided(net, scores=scores, corrected=corrected) for corrected in (True, False))
    first, second = (process.advance(process.init(noise), 0, 8, noise) for process in (with_it, without))
    assert torch.equal(first.own.ids, second.own.ids)
    assert first.log_ratio.abs().min() > 0
    assert (second.log_ratio == 0).all()


@pytest.mark.parametrize("kernel", ["remdm-cap", "sedd-analytic", "confidence"])
def test_kernels_that_reveal_otherwise_are_refused(kernel):
    with pytest.raises(UsageError, match="guidance goes with the kernels ancestral, first-hitting and any-order"):
        guided(NETWORKS["bert"](), kernel)


def test_a_network_of_tokens_alone_is_refused():
    with pytest.raises(UsageError, match=r"takes embeddings, .*got Compiled"):
        Gradient(Compiled(NETWORKS["bert"]()), [], [], 1.0)


def test_scores_that_are_not_finite_are_refused():
    class Broken:
        def slopes(self, ids, t):
            return torch.full((*ids.shape, 1), torch.nan)

        def scores(self, slopes):
            return slopes.expand(-1, 90)

    process, noise = guided(NETWORKS["bert"](), scores=Broken()), Noise.of([3], 3)
    with pytest.raises(ModelError, match="scores that guide are not finite"):
        process.advance(process.init(noise), 0, 8, noise)


def test_gradients_go_through_memory_in_halves(monkeypatch):
    net = NETWORKS["bert"]()
    scores, noise = Gradient(net, [Head(32, "mean").requires_grad_(False)], [1.0], 4.0), Noise.of([3], 3)
    whole = guided(net, scores=scores)
    state = whole.advance(whole.init(noise), 0, 2, noise)
    plain, asked = scores.slopes, []

    def narrow(ids, t):
        asked.append(len(ids))
        if len(ids) > 1:
            raise torch.OutOfMemoryError("no room")
        return plain(ids, t)

    expected = whole.advance(state, 2, 8, noise)
    monkeypatch.setattr(scores, "slopes", narrow)
    found = whole.advance(state, 2, 8, noise)
    assert torch.equal(found.own.ids, expected.own.ids)
    torch.testing.assert_close(found.log_ratio, expected.log_ratio)
    assert max(asked) > 1
    assert type(whole.process) is MaskedDiffusion
