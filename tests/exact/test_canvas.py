"""Canvas after canvas on a network small enough to list: the law with self-conditioning, predictions, and the tilted law."""

from dataclasses import replace
from functools import cached_property
from itertools import product

import pytest
import torch
from listed import after_gibbs, written

from fktext.masked.sampling import token_probs
from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.process import gather
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer
from fktext.testing.enumerable import Enumerable, TableReward
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case
from fktext.uniform import canvas, process
from fktext.uniform.canvas import UNWRITTEN, CanvasDiffusion

PROMPT = 1  # tokens


class Table:
    """Read logits off a table with a random row for every prefix and canvas, and move them by what is fed back."""

    mask_id, max_length, dtype = UNWRITTEN, 99, torch.float32
    device = torch.device("cpu")

    def __init__(self, size, tokens):
        self.canvas, self.vocab_size, self.width = size, tokens, tokens
        self.read, self.gone_on = [], 0
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(tokens ** (PROMPT + size), tokens**size, size, tokens, generator=generator)
        self.back = 2 * torch.randn(tokens, tokens, generator=generator)

    def number(self, ids):
        return (ids * self.vocab_size ** torch.arange(ids.shape[1])).sum(-1)

    def prefix(self, ids, before=None):
        self.read.append(len(ids))
        if before is not None:
            known, which = before
            self.gone_on += len(ids)
            assert torch.equal(known[which], ids[:, : known.shape[1]])
        return ids

    def encode(self, ids, soft, prefix, which):
        return self.table[self.number(prefix)[which], self.number(ids)] + soft

    def logits(self, hidden):
        return hidden

    def embed(self, logits):
        return logits.softmax(-1) @ self.back


class Deaf(Table):
    """The same network, to which nothing is fed back."""

    def embed(self, logits):
        return torch.zeros_like(logits)


class Canvases(Enumerable):
    """The listable model: `canvases` of `size` tokens after a prompt, and a text stops at the first of `ends`."""

    def __init__(self, size=2, tokens=3, steps=3, canvases=1, ends=(), **settings):
        self.denoiser, self.settings = Table(size, tokens), settings
        self.size, self.tokens, self.steps, self.canvases, self.ends = size, tokens, steps, canvases, ends
        self.num_steps, self.length = steps * canvases, PROMPT + size * canvases
        self.states = torch.tensor(list(product(range(tokens), repeat=size)))
        self.texts = list(self.laws)
        begun = {text[:size] for text in self.texts for size in range(len(text) + 1)}  # what predictions may be
        self.reward = TableReward(sorted(begun), 1)

    def process(self, populations, particles, network=None):
        templates = torch.full((populations, self.length), UNWRITTEN)
        templates[:, :PROMPT] = 0
        settings = {"ends": self.ends, **self.settings}
        return CanvasDiffusion(network or self.denoiser, templates, particles, self.steps, self._decode, **settings)

    def _decode(self, ids, population):
        return written(ids, lambda row: self.spelled(row[PROMPT:]))

    def spelled(self, row):
        stop = next((at for at, token in enumerate(row) if token in {UNWRITTEN, *self.ends}), len(row))
        return "".join(map(str, row[: stop + (stop < len(row) and row[stop] in self.ends)]))

    def kernel(self, probs, ids, before, after):
        """(P, C, V): the posterior as a mixture over clean tokens, each by Bayes' rule."""
        size, ratio = self.tokens, before / after
        each = torch.eye(size, dtype=torch.float64)
        prior = after * each + (1 - after) / size  # of the next token, given a clean one
        likelihood = ratio * each[ids] + (1 - ratio) / size  # of the held token, given the next
        joint = prior * likelihood[..., None, :]
        return (probs[..., None] * joint / joint.sum(-1, keepdim=True)).sum(-2)

    def written(self, context):
        """(V^C,): the law of a canvas after a context, summed over all ways there; what is fed back depends on the way."""
        network, count = self.denoiser, len(self.states)
        ids, soft = self.states, torch.zeros(count, self.size, self.tokens)
        mass, which = torch.full((count,), 1 / count, dtype=torch.float64), torch.zeros(count, dtype=torch.int64)
        forbidden = torch.tensor(self.settings.get("forbidden", ()), dtype=torch.int64)
        top = self.settings.get("temperature", 1.0), self.settings.get("top_p", 1.0)
        for step in range(self.steps):
            logits = network.encode(ids, soft, context[None], which)
            probs = token_probs(logits.flatten(0, 1), forbidden, *top).double().view(logits.shape)
            q = self.kernel(probs / probs.sum(-1, keepdim=True), ids, step / self.steps, (step + 1) / self.steps)
            torch.testing.assert_close(q.sum(-1), torch.ones_like(q.sum(-1)))
            moves = torch.stack([q[:, place, self.states[:, place]] for place in range(self.size)]).prod(0)
            soft = network.embed(logits.flatten(0, 1)).view(logits.shape).repeat_interleave(count, 0)
            mass, ids = (mass[:, None] * moves).flatten(), self.states.repeat(len(ids), 1)
            which = torch.zeros(len(ids), dtype=torch.int64)
        return mass.view(-1, count).sum(0)

    @cached_property
    def laws(self):
        found, contexts = {}, [(torch.zeros(PROMPT, dtype=torch.int64), 1.0)]
        for number in range(self.canvases):
            following = []
            for context, mass in contexts:
                for ids, share in zip(self.states, self.written(context).tolist(), strict=True):
                    text = torch.cat([context, ids])
                    if number + 1 < self.canvases and not set(ids.tolist()) & set(self.ends):
                        following.append((text, mass * share))
                    else:
                        spelled = self.spelled(text[PROMPT:].tolist())
                        found[spelled] = found.get(spelled, 0.0) + mass * share
            contexts = following
        return found

    @property
    def law(self):
        return torch.tensor(list(self.laws.values()), dtype=torch.float64)


@pytest.fixture(scope="module")
def model():
    return Canvases()


@pytest.fixture(scope="module")
def two():
    return Canvases(tokens=2, canvases=2)


def plain(model, particles, network=None):
    """The finished texts of the sampler alone."""
    noise = Noise.of([population_key(0, "plain")], particles)
    sampler = model.process(1, particles, network)
    return sampler.decode(sampler.advance(sampler.init(noise), 0, model.num_steps, noise).text)


def z_score(model, texts, law=None):
    law = model.law if law is None else law
    place = {text: index for index, text in enumerate(model.texts)}
    seen = torch.bincount(torch.tensor([place[text] for text in texts]), minlength=len(law)).double() / len(texts)
    assert (seen[law == 0] == 0).all()
    kept = law > 0
    return ((seen - law)[kept] / (law * (1 - law) / len(texts))[kept].sqrt()).abs().max()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"steps": 1},
        {"steps": 4, "tokens": 2},
        {"tokens": 2, "canvases": 2},
        {"canvases": 2, "steps": 2, "ends": (1,)},
        {"forbidden": (2,)},
        {"temperature": 0.6},
        {"top_p": 0.7},
    ],
)
def test_the_sampler_has_its_law(settings):
    model = Canvases(**settings)
    assert z_score(model, plain(model, 20_000)) < Z_BOUND


def test_another_form_and_a_deaf_network_are_other_laws(model, monkeypatch):
    """Negative controls: p is taken for that of a network that does not see the position itself, or nothing is fed back."""
    assert z_score(model, plain(model, 20_000, Deaf(model.size, model.tokens))) > 2 * Z_BOUND
    monkeypatch.setattr(canvas, "routes", process.routes)
    assert z_score(model, plain(model, 20_000)) > 2 * Z_BOUND


def test_predictions_are_draws_from_the_network(two):
    """Of the present canvas, after what is finished; a prediction of an unfinished text ends where the canvas does."""
    particles, k = 10_000, 4
    sampler, noise = two.process(1, particles), Noise.of([population_key(0, "predictions")], particles)
    state = sampler.init(noise)
    state.text[:, PROMPT : PROMPT + 2] = torch.tensor([1, 0])
    state.canvas[:], state.soft[:] = torch.tensor([0, 1]), 0.3
    x0, kept = sampler.predict(state, k, noise, 3)
    assert x0.shape == (3 * particles, two.length)
    assert torch.equal(kept.canvas, state.canvas)
    assert sampler.ledger.denoiser_rows == 2  # equal states share a forward, and one prefix was read
    probs = two.denoiser.encode(state.canvas[:1], state.soft[:1], state.text[:1, :3], torch.zeros(1, dtype=torch.int64))[0]
    probs = probs.double().softmax(-1)
    law = torch.stack([probs[0, ids[0]] * probs[1, ids[1]] for ids in two.states])
    law = torch.tensor([law[two.denoiser.number(two.states).tolist().index(index)] for index in range(4)])
    seen = torch.bincount(two.denoiser.number(x0[:, 3:]), minlength=4) / len(x0)
    assert ((seen - law) / (law * (1 - law) / len(x0)).sqrt()).abs().max() < Z_BOUND
    early, _ = sampler.predict(sampler.init(noise), 1, noise, 1)
    assert (early[:, 3:] == UNWRITTEN).all()
    assert (early[:, :3] >= 0).all()


@pytest.mark.parametrize("adaptivity", ADAPTIVITY)
@pytest.mark.parametrize(
    "resampler",
    ["systematic", pytest.param("multinomial", marks=pytest.mark.long), pytest.param("killing", marks=pytest.mark.long)],
)
@pytest.mark.parametrize("potential", POTENTIALS)
def test_every_potential_and_adaptivity_is_unbiased(two, potential, resampler, adaptivity):
    result = run_case(two, potential, RESAMPLERS[resampler], ADAPTIVITY[adaptivity], populations=800)
    assert max(map(abs, check_law(two, result, LAM, rarest=1 / 400))) < Z_BOUND


@pytest.mark.parametrize(
    ("shape", "settings"),
    [
        ({}, {"schedule": At([1, 2])}),
        ({}, {"particles": 8}),
        ({"canvases": 2, "steps": 2, "ends": (1,)}, {"look_ahead": Predictions(1)}),
    ],
)
def test_schedules_ends_and_particle_numbers_do_not_change_the_law(shape, settings):
    model = Canvases(**shape)
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.7, populations=1500, seed=1, **settings)
    assert max(map(abs, check_law(model, result, LAM, rarest=1 / 400))) < Z_BOUND


def test_what_is_fed_back_follows_the_particle(two):
    """A copy that asks the network again is told what the original was: by its canvas, its prefix and what was fed back."""
    particles, k = 40, 4
    sampler, noise = two.process(1, particles), Noise.of([1], particles)
    state = sampler.advance(sampler.init(noise), 0, k, noise)
    _, seen = sampler.predict(state, k, noise, 1)
    ancestors = torch.randint(0, particles, (particles,), generator=torch.Generator().manual_seed(0))
    copied, again = gather(seen, ancestors), gather(state.forget(), ancestors)
    assert torch.equal(sampler.predict(again, k, noise, 1)[1].hidden, copied.hidden)
    assert len(torch.unique(state.soft.flatten(1), dim=0)) > len(torch.unique(state.canvas, dim=0))
    for name in ("soft", "canvas", "text"):  # negative controls: something stays behind
        behind = replace(again, **{name: getattr(state, name)})
        assert not torch.equal(sampler.predict(behind, k, noise, 1)[1].hidden, copied.hidden)


@pytest.mark.parametrize("wrong", ["deaf", "form"])
def test_a_steered_run_of_another_kernel_is_caught(model, monkeypatch, wrong):
    if wrong == "form":
        monkeypatch.setattr(canvas, "routes", process.routes)
    network = {"network": Deaf(model.size, model.tokens)} if wrong == "deaf" else {}
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.9, populations=3000, **network)
    assert max(map(abs, check_law(model, result, LAM))) > 2 * Z_BOUND


def test_one_particle_is_the_plain_sampler_and_windows_do_not_matter(two):
    """Bit for bit: weighings and predictions in between change nothing of a lineage that is never replaced."""
    keys = [population_key(0, "one", index) for index in range(300)]
    noise, sampler = Noise.of(keys, 1), two.process(300, 1)
    expected = sampler.decode(sampler.advance(sampler.init(noise), 0, two.num_steps, noise).text)
    plan = Plan(1, Every(1), lam=3.0, ess_threshold=1.1, look_ahead=Predictions(2))
    assert steer(two.process(300, 1), Scorer([Weighted("table", two.reward)]), noise, plan).samples == expected
    # and a population does not notice who else is computed with it
    for key, text in list(zip(keys, expected, strict=True))[:5]:
        alone, own = two.process(1, 1), Noise.of([key], 1)
        assert alone.decode(alone.advance(alone.init(own), 0, two.num_steps, own).text) == [text]


def test_every_step_costs_a_row_for_each_state_and_every_canvas_one_for_each_prefix():
    model, particles = Canvases(canvases=2, ends=(1,)), 60
    noise, sampler = Noise.of([1], particles), model.process(1, particles)
    state, rows, heads, cached = sampler.init(noise), 0, 0, 0
    for k in range(model.num_steps):
        live = ~(state.text[:, PROMPT:] == 1).any(1)
        seen = torch.cat([state.text, state.canvas, state.soft.flatten(1)], 1)[live]
        wanted = len(torch.unique(seen, dim=0))
        prefixes = len(torch.unique(state.text[live], dim=0)) if k % model.steps == 0 else 0
        _, state = sampler.predict(state, k, noise, 2)
        assert sampler.ledger.denoiser_rows - rows == wanted + prefixes
        cached += wanted * (PROMPT + k // model.steps * model.size) + (prefixes * PROMPT if k else 0)
        rows, heads = sampler.ledger.denoiser_rows, heads + 2 * int(live.sum()) * model.size
        state = gather(state, torch.arange(particles))  # a copy has what the network said of it
        state = sampler.advance(state, k, k + 1, noise)
        assert sampler.ledger.denoiser_rows == rows
    assert sampler.ledger.head_positions == heads
    assert sampler.ledger.cached_positions == cached  # what would be read anew without the prefixes
    assert 0 < int(live.sum()) < particles
    assert model.denoiser.read[0] == 1  # one copy of the prompt for all
    assert model.denoiser.gone_on == model.denoiser.read[-1] > 1  # the second canvas's prefixes go on from the first's


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_are_equal_in_tokens_and_in_what_is_fed_back(dtype):
    ids = torch.tensor([[1, 2], [1, 2], [0, 2], [1, 2], [0, 2], [3, 3]])
    soft = torch.tensor([0.1, 0.2, 0.1, 0.1, 0.1, 0.1]).to(dtype)[:, None, None].expand(6, 2, 3)
    number = canvas._equal(ids, soft).tolist()
    assert number[0] == number[3]
    assert number[2] == number[4]
    assert len(set(number)) == 4 == max(number) + 1


def test_particle_gibbs(model):
    near, far = after_gibbs(model)
    assert near < 0.03
    assert far > 0.08
