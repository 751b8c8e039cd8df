"""Texts written block after block: their law by listing, alone and steered within and between blocks."""

from functools import cached_property
from itertools import product

import pytest
import torch
from listed import written

import tiny
from fktext.masked.any_order import AnyOrder
from fktext.masked.block_llm import BlockCausalLM
from fktext.masked.blocks import blocks
from fktext.masked.cache import Cached
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.process import MaskedDiffusion
from fktext.masked.strides import Strides
from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer
from fktext.testing.enumerable import Enumerable, TableReward
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case


class BlockTable:
    """Read logits off a table per block, each by all tokens up to the end of its block: what a block-causal network does."""

    time_dependent = False

    def __init__(self, length, block, tokens, seed):
        self.max_length, self.mask_id, self.vocab_size, self.block = length, tokens, tokens + 1, block
        self._radix = (tokens + 1) ** torch.arange(length)
        generator = torch.Generator().manual_seed(seed)
        ends = range(block, length + 1, block)
        self.tables = [torch.randn((tokens + 1) ** end, block, tokens + 1, generator=generator) for end in ends]
        self.device = torch.device("cpu")

    def encode(self, ids, t):
        parts = []
        for at, table in zip(range(0, ids.shape[1], self.block), self.tables, strict=False):
            seen = ids[:, : at + self.block]
            parts.append(table[(seen * self._radix[: seen.shape[1]]).sum(-1)][:, : ids.shape[1] - at])
        return torch.cat(parts, 1)

    def extend(self, ids, past):
        whole, _ = past.update(ids[:, None, :, None], ids[:, None, :, None], 0)  # its keys and values are the tokens themselves
        return self.encode(whole[:, 0, :, 0], None)[:, past.length :]

    def logits(self, hidden):
        return hidden


class Causal(BlockTable):
    """See only what comes before a block, not the block."""

    def encode(self, ids, t):
        last = (ids.shape[1] - 1) // self.block * self.block
        return super().encode(torch.cat([ids[:, :last], torch.full_like(ids[:, last:], self.mask_id)], 1), t)


class Unfinished(BlockTable):
    """Leave a block as it was when its last token was still masked: no pass over the finished one."""

    def extend(self, ids, past):
        stale = ids.clone()
        stale[:, self.block - 1 : -self.block : self.block] = self.mask_id
        return super().extend(stale, past)


class Blockwise(Enumerable):
    """The enumerable network over blocks, and its law: a block given the finished ones before it, and so on."""

    def __init__(
        self, length=4, block=2, prompt=(), tokens=2, end=None, num_steps=2, seed=0, kernel=MaskedDiffusion, context=0, cached=False
    ):
        self.denoiser, self.cached = BlockTable(context or length, block, tokens, seed), cached
        self.tokens, self.num_steps, self.end, self.kernel = tokens, num_steps, end, kernel
        self.template = torch.tensor([*prompt, *[tokens] * (length - len(prompt))])
        self.columns = blocks(self.template, tokens, block, context or length)
        rest = length - len(prompt)
        begun = {self.spell((*prompt, *ids)) for size in range(rest + 1) for ids in product(range(tokens), repeat=size)}
        self.texts = sorted({self.spell((*prompt, *ids)) for ids in product(range(tokens), repeat=rest)})
        self.reward = TableReward(sorted(begun), seed + 1)  # of unfinished texts too, unrelated to what becomes of them

    def spell(self, ids):
        text = "".join(str(token) for token in ids if token != self.tokens)
        return text if self.end is None else text.split(str(self.end))[0]

    def process(self, populations, particles, **settings):
        templates = self.template.expand(populations, -1).clone()
        denoiser = Cached(self.denoiser, self.denoiser.block) if self.cached else self.denoiser
        first = self.kernel(denoiser, templates[:, self.columns[0]], particles, self.num_steps, self._decode, **settings)
        endings = () if self.end is None else (self.end,)
        return Strides(first, templates, self.columns, particles, self._decode, endings=endings)

    @cached_property
    def law(self):
        """List the semi-autoregressive law by the definition: blocks in order, in each the T steps of masked diffusion."""
        mask, block = self.tokens, self.denoiser.block
        mass = {tuple(self.template.tolist()): 1.0}
        for at in range(0, len(self.template), block):
            for step in range(self.num_steps):
                following = {}
                for text, weight in mass.items():
                    begin, end = max(0, at + block - self.denoiser.max_length), at + block
                    for after, probability in self._transitions(text[begin:end], 1 / (self.num_steps - step)):
                        new = text[:begin] + after + text[end:]
                        following[new] = following.get(new, 0.0) + weight * probability
                mass = following
        assert all(mask not in text for text in mass)
        total = dict.fromkeys(self.texts, 0.0)
        for ids, weight in mass.items():
            total[self.spell(ids)] += weight
        return torch.tensor(list(total.values()), dtype=torch.float64)

    def _decode(self, ids, population):
        return written(ids, self.spell)


class Qwen3(BlockCausalLM):
    """A network of transformers whose hidden states are its logits, as those of the tables are."""

    def encode(self, ids, t):
        return self.model.lm_head(super().encode(ids, t))

    def extend(self, ids, past):
        return self.model.lm_head(super().extend(ids, past))

    def logits(self, hidden):
        return hidden


@torch.inference_mode()
def qwen3(cached):
    """A network of transformers in the place of the table: two heads, one layer, its weights large enough to tell texts apart."""
    config = {"vocab_size": 3, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    rest = {"num_key_value_heads": 1, "head_dim": 8, "pad_token_id": None, "initializer_range": 0.4}
    model = Blockwise(cached=cached)
    model.denoiser = Qwen3(tiny.network("Qwen3ForCausalLM", **config, **rest), mask_id=2, block=2)
    return model


MODELS = {
    "two blocks": Blockwise(),
    "three blocks": Blockwise(length=3, block=1, num_steps=1),
    "a prompt that shares a block": Blockwise(length=6, prompt=(1, 0, 1)),
    "a context of two blocks for three": Blockwise(length=6, context=4, prompt=(0,)),
    "two blocks and an end": Blockwise(tokens=3, end=2, seed=5),
    "two blocks, remembered": Blockwise(cached=True),
    "a prompt that shares a block, remembered": Blockwise(length=6, prompt=(1, 0, 1), cached=True),
    "Qwen3": qwen3(cached=False),
    "Qwen3, remembered": qwen3(cached=True),
    "a context of two blocks for three, remembered": Blockwise(length=6, context=4, prompt=(0,), cached=True),
}


def z_scores(model, texts):
    law = model.law
    place = {text: index for index, text in enumerate(model.texts)}
    seen = torch.bincount(torch.tensor([place[text] for text in texts]), minlength=len(law)).double() / len(texts)
    return float(((seen - law) / (law * (1 - law) / len(texts)).sqrt()).abs().max())


def plain(process, particles, key="blocks"):
    noise = Noise.of([population_key(0, key)], particles)
    return process.decode(process.advance(process.init(noise), 0, process.num_steps, noise).ids)


@pytest.mark.parametrize("name", MODELS)
def test_law(name):
    model = MODELS[name]
    assert model.law.sum() == pytest.approx(1, abs=1e-9)
    assert z_scores(model, plain(model.process(1, 20_000), 20_000)) < Z_BOUND


def wrong_border(model):
    model.columns = [torch.arange(3), torch.arange(4)]


def all_at_once(model):
    model.columns = [torch.arange(4)]  # the first block is revealed while the second, masked, is beside it


def later_masks(model):
    """Let the first block see how many masks come behind it."""
    short, table = model.denoiser.tables[0].clone(), model.denoiser
    model.columns = [torch.arange(4), torch.arange(4)]
    table.tables[0] = short.roll(1, 0)


def blind_to_its_own_block(model):
    model.denoiser.__class__ = Causal


def remembered_unfinished(model):
    model.denoiser.__class__, model.cached = Unfinished, True


@pytest.mark.parametrize("damage", [wrong_border, all_at_once, later_masks, blind_to_its_own_block, remembered_unfinished])
def test_the_comparison_has_teeth(damage):
    model, true = Blockwise(), MODELS["two blocks"]
    damage(model)
    assert z_scores(true, plain(model.process(1, 20_000), 20_000)) > Z_BOUND


@pytest.mark.parametrize("kernel", [FirstHitting, AnyOrder])
def test_continuous_time_is_the_limit_of_many_steps(kernel):
    model = Blockwise(kernel=kernel, num_steps=3)
    fine = Blockwise(num_steps=2000)
    fine.denoiser = model.denoiser
    place = {text: index for index, text in enumerate(model.texts)}
    seen = torch.bincount(torch.tensor([place[text] for text in plain(model.process(1, 20_000), 20_000)]), minlength=16).double()
    limit = plain(fine.process(1, 20_000), 20_000, key="another")
    wanted = torch.bincount(torch.tensor([place[text] for text in limit]), minlength=16).double()
    assert ((seen - wanted) / (seen + wanted).sqrt()).abs().max() < Z_BOUND
    assert z_scores(Blockwise(), plain(model.process(1, 20_000), 20_000)) > Z_BOUND  # two steps are another law


@pytest.mark.parametrize(
    ("name", "potential", "resampler", "adaptivity"),
    [
        *(("two blocks", potential, "systematic", adaptivity) for potential in POTENTIALS for adaptivity in ADAPTIVITY),
        *(("two blocks", "difference", resampler, "always") for resampler in RESAMPLERS if resampler != "systematic"),
        *((name, "difference", "systematic", "ess") for name in MODELS if name != "two blocks"),
    ],
)
def test_steered_populations_are_unbiased(name, potential, resampler, adaptivity):
    model = MODELS[name]
    result = run_case(model, potential, RESAMPLERS[resampler], ADAPTIVITY[adaptivity], populations=1200)
    z_norm, z_law = check_law(model, result, LAM)
    assert abs(z_norm) < Z_BOUND
    assert z_law < Z_BOUND


@pytest.mark.parametrize("schedule", [Every(3), Every(2), At([1, 3])])
def test_weighings_inside_across_and_between_blocks(schedule):
    model = MODELS["two blocks"]
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.9, populations=1200, schedule=schedule)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND


def test_steering_at_a_wrong_border_is_caught():
    model = Blockwise()
    wrong_border(model)
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.9, populations=4000)
    assert max(map(abs, check_law(MODELS["two blocks"], result, LAM))) > Z_BOUND


@pytest.mark.parametrize("kernel", [MaskedDiffusion, FirstHitting, AnyOrder])
@pytest.mark.parametrize("schedule", [Every(1), Every(2), Every(3), At([3])])
@pytest.mark.parametrize("cached", [False, True])
def test_one_particle_is_the_plain_sampler(kernel, schedule, cached):
    model = Blockwise(length=6, num_steps=3, kernel=kernel, cached=cached)
    keys = [population_key(0, index) for index in range(200)]
    process, noise = model.process(200, 1), Noise.of(keys, 1)
    expected = process.decode(process.advance(process.init(noise), 0, process.num_steps, noise).ids)
    if cached:
        without = Blockwise(length=6, num_steps=3, kernel=kernel).process(200, 1)
        assert expected == without.decode(without.advance(without.init(noise), 0, without.num_steps, noise).ids)
    plan = Plan(1, schedule, resampler=RESAMPLERS["systematic"], lam=1.0, ess_threshold=1.1, look_ahead=Predictions(2))
    assert len(set(expected)) > 20
    assert steer(model.process(200, 1), Scorer([Weighted("table", model.reward)]), noise, plan).samples == expected
