"""Uniform-state diffusion on a model small enough to list: its law, its predictions, and the tilted law."""

from functools import cached_property
from itertools import product

import pytest
import torch
from listed import after_gibbs

from fktext.masked.dit import EPS
from fktext.masked.sampling import token_probs
from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Predictions, Values
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.process import gather
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer
from fktext.testing.enumerable import Enumerable, TableReward
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case
from fktext.uniform import process as uniform
from fktext.uniform.process import UniformDiffusion


class Table:
    """Read p off a table with a random row for every state, which the noise time also changes."""

    time_dependent, mask_id = True, -1
    device = torch.device("cpu")

    def __init__(self, length, tokens):
        self.max_length, self.vocab_size = length, tokens
        generator = torch.Generator().manual_seed(0)
        self.early, self.late = 1.5 * torch.randn(2, tokens**length, length, tokens, generator=generator)
        self._radix = tokens ** torch.arange(length)

    def encode(self, ids, t):
        place, t = (ids * self._radix).sum(-1), t[:, None, None]
        return t * self.early[place] + (1 - t) * self.late[place]

    def logits(self, hidden):
        return hidden


class Dead(Table):
    """The same network, told that there is no noise."""

    def encode(self, ids, t):
        return super().encode(ids, torch.zeros_like(t))


class Uniform(Enumerable):
    """The listable uniform-state diffusion; position 0 may be clamped to a token."""

    def __init__(self, length=2, tokens=3, num_steps=4, clamped=None, **settings):
        self.denoiser, self.settings = Table(length, tokens), settings
        self.length, self.tokens, self.num_steps, self.clamped = length, tokens, num_steps, clamped
        self._finished = list(product(range(tokens), repeat=length))
        self.texts = ["".join(map(str, ids)) for ids in self._finished]
        self.reward = TableReward(self.texts, 1)

    def process(self, populations, particles, denoiser=None):
        templates = torch.full((populations, self.length), -1)
        if self.clamped is not None:
            templates[:, 0] = self.clamped
        network = denoiser or self.denoiser
        return UniformDiffusion(network, templates, particles, self.num_steps, self._decode, **self.settings)

    def alpha(self, step):
        return 1 - (1 - EPS) * (1 - step / self.num_steps)

    def probs(self, step):
        """(V^L, L, V) float64: what the network says of each state."""
        states = torch.tensor(self._finished)
        logits = self.denoiser.encode(states, torch.full((len(states),), 1 - step / self.num_steps))
        forbidden = torch.tensor(self.settings.get("forbidden", ()), dtype=torch.int64)
        top = self.settings.get("temperature", 1.0), self.settings.get("top_p", 1.0)
        probs = token_probs(logits.flatten(0, 1), forbidden, *top).double().view(logits.shape)
        return probs / probs.sum(-1, keepdim=True)

    def kernel(self, step, following):
        """(V^L, L, V) float64: the posterior of each position, as the authors write it out."""
        p, size = self.probs(step), self.tokens
        before, after = self.alpha(step), self.alpha(following)
        here = torch.nn.functional.one_hot(torch.tensor(self._finished), size).double()
        ratio = before / after
        above = before * size * p * here + (ratio - before) * here + (after - before) * p + (1 - ratio) * (1 - after) / size
        q = above / (before * size * (p * here).sum(-1, keepdim=True) + 1 - before)
        if (eta := self.settings.get("eta", 0.0)) and after < 1:
            clean = (before * size * p * here + (1 - before) * p) / (before * size * (p * here).sum(-1, keepdim=True) + 1 - before)
            kappa = max(0.0, 1 - min(eta, (1 - after) / before) / (1 - after))
            q = kappa * q + (1 - kappa) * (after * clean + (1 - after) / size)
        if self.clamped is not None:
            q[:, 0] = here[:, 0]
        return q

    def moves(self, q):
        """(V^L, V^L): from each state to each, position by position."""
        to = torch.tensor(self._finished)
        return torch.stack([q[:, place, to[:, place]] for place in range(self.length)]).prod(0)

    @cached_property
    def law(self):
        states = torch.tensor(self._finished)
        mass = torch.ones(len(states), dtype=torch.float64)
        if self.clamped is not None:
            mass *= states[:, 0] == self.clamped
        mass /= mass.sum()
        for step in range(self.num_steps):
            q = self.kernel(step, step + 1)
            torch.testing.assert_close(q.sum(-1), torch.ones_like(q.sum(-1)))
            mass = mass @ self.moves(q)
            for _ in range(self.settings.get("corrections", 0) if step + 1 < self.num_steps else 0):
                mass = mass @ self.gibbs(step + 1)
        return mass

    def gibbs(self, step):
        """(V^L, V^L): an update of one free position, chosen at random, from the law of its noisy token given the others."""
        alpha, states = self.alpha(step), torch.tensor(self._finished)
        law = alpha * self.probs(step) + (1 - alpha) / self.tokens
        moves = torch.zeros(len(states), len(states), dtype=torch.float64)
        free = range(int(self.clamped is not None), self.length)
        for place in free:
            others = [at for at in range(self.length) if at != place]
            same = (states[:, None, others] == states[None, :, others]).all(-1)
            moves += same * law[:, place, states[:, place]] / len(free)
        torch.testing.assert_close(moves.sum(1), torch.ones_like(moves.sum(1)))
        return moves


@pytest.fixture(scope="module")
def model():
    return Uniform()


def plain(model, particles, name="plain", denoiser=None):
    """The finished states of the sampler alone."""
    noise = Noise.of([population_key(0, name)], particles)
    process = model.process(1, particles, denoiser)
    return process.advance(process.init(noise), 0, model.num_steps, noise).ids


def z_scores(model, ids, law=None):
    law = model.law if law is None else law
    radix = model.tokens ** torch.arange(model.length - 1, -1, -1)
    seen = torch.bincount((ids * radix).sum(-1), minlength=len(law)).double() / len(ids)
    assert (seen[law == 0] == 0).all()
    kept = law > 0
    return ((seen - law)[kept] / (law * (1 - law) / len(ids))[kept].sqrt()).abs().max()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length": 3, "tokens": 2},
        {"num_steps": 1},
        {"clamped": 1},
        {"forbidden": (2,)},
        {"temperature": 0.6},
        {"top_p": 0.7},
        {"corrections": 1},
        {"eta": 0.3},
        {"length": 3, "tokens": 2, "clamped": 1, "corrections": 2},
    ],
)
def test_the_sampler_has_its_law(settings):
    model = Uniform(**settings)
    assert z_scores(model, plain(model, 30_000)) < Z_BOUND


def test_a_dead_noise_level_and_a_wrong_step_are_other_laws(model, monkeypatch):
    """Negative controls: the network is told a wrong time, or the posterior is that of another step."""
    assert z_scores(model, plain(model, 30_000, denoiser=Dead(model.length, model.tokens))) > 2 * Z_BOUND
    right = uniform.routes
    monkeypatch.setattr(uniform, "routes", lambda here, size, before, after: right(here, size, before, (before + after) / 2))
    assert z_scores(model, plain(model, 30_000)) > 2 * Z_BOUND


def test_predictions_are_drawn_from_the_model_given_the_state(model):
    """p(x0 | x_t) is what p leaves after the position's own noisy token is taken into account, by Bayes' rule."""
    particles, k = 20_000, 2
    process, noise = model.process(1, particles), Noise.of([population_key(0, "predictions")], particles)
    state = process.init(noise)
    state.ids[:] = torch.tensor(model._finished[5])
    x0, kept = process.predict(state, k, noise, 3)
    before = model.alpha(k)
    here = torch.nn.functional.one_hot(torch.tensor(model._finished[5]), model.tokens).double()
    law = model.probs(k)[5] * (before * here + (1 - before) / model.tokens)
    law = torch.stack([torch.tensor(ids) for ids in model._finished]), law / law.sum(-1, keepdim=True)
    joint = torch.stack([law[1][place, law[0][:, place]] for place in range(model.length)]).prod(0)
    assert z_scores(model, x0, joint) < Z_BOUND
    assert x0.shape == (3 * particles, model.length)
    assert torch.equal(kept.ids, state.ids)
    assert process.ledger.denoiser_rows == 1  # equal states share a forward
    done, _ = process.predict(state, model.num_steps, noise, 3)
    assert torch.equal(done, state.ids)


@pytest.mark.parametrize("adaptivity", ADAPTIVITY)
@pytest.mark.parametrize(
    "resampler",
    ["systematic", pytest.param("multinomial", marks=pytest.mark.long), pytest.param("killing", marks=pytest.mark.long)],
)
@pytest.mark.parametrize("potential", POTENTIALS)
def test_every_potential_and_adaptivity_is_unbiased(model, potential, resampler, adaptivity):
    result = run_case(model, potential, RESAMPLERS[resampler], ADAPTIVITY[adaptivity], populations=800)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND


@pytest.mark.parametrize("settings", [{"schedule": At([1, 3])}, {"look_ahead": Predictions(1)}, {"particles": 8}])
def test_schedules_predictions_and_particle_numbers_do_not_change_the_law(model, settings):
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.7, populations=1500, seed=1, **settings)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND


def test_a_learned_value_changes_no_law_and_costs_no_row():
    """However wrong it is; it reads what the next step reads."""
    model = Uniform(clamped=0)
    value = Values([lambda features: (features.hidden.flatten(1) * 37.7).sin().sum(1) + features.unknown])
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.7, populations=1500, look_ahead=value)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND
    asked = run_case(model, "difference", RESAMPLERS["systematic"], 0.7, populations=1, look_ahead=Predictions(1))
    read = run_case(model, "difference", RESAMPLERS["systematic"], 0.7, populations=1, look_ahead=value)
    assert max(item.ledger.denoiser_rows for item in (asked, read)) <= 3 * model.num_steps
    assert read.ledger.reward_requests == 3  # finished texts alone


def test_texts_are_put_under_the_noise_that_particles_are_under(model):
    """In closed form; the network says of a noised text what it says of a particle that is the same."""
    process, rng = model.process(1, 4000), torch.Generator().manual_seed(0)
    ids, free = torch.tensor([[0, 1]]).repeat(4000, 1), torch.tensor([[False, True]]).repeat(4000, 1)
    noised, t, unknown = process.noised(ids, free, rng)
    assert (noised[:, 0] == 0).all()
    torch.testing.assert_close(unknown, (1 - EPS) * t / 2)
    torch.testing.assert_close(t.sort().values, torch.arange(4000) / 4000, atol=1 / 4000, rtol=0)
    for early, late in ((0.0, 0.5), (0.5, 1.0)):
        here = (t >= early) & (t < late)
        kept = 1 - (1 - EPS) * (early + late) / 2 * (model.tokens - 1) / model.tokens
        assert abs(float((noised[here, 1] == 1).double().mean()) - kept) < 5 * (0.25 / 2000) ** 0.5
    same = torch.full((4000,), 1 - 2 / model.num_steps)
    features, state = process.features(uniform.UniformState.of(noised), 2)
    seen = process.seen(noised, same, (1 - EPS) * same)
    assert torch.equal(features.hidden, seen.hidden)
    torch.testing.assert_close(features.unknown, seen.unknown)
    assert torch.equal(state.seen, torch.full((4000,), 2))


def test_a_clamped_chain_is_steered_exactly():
    model = Uniform(clamped=2)
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.9, populations=1500)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND
    assert {text[0] for text in result.samples} == {"2"}


@pytest.mark.parametrize("wrong", ["dead", "step"])
def test_a_steered_run_of_another_kernel_is_caught(model, monkeypatch, wrong):
    right = uniform.routes
    if wrong == "step":
        monkeypatch.setattr(uniform, "routes", lambda here, size, before, after: right(here, size, before, (before + after) / 2))
    result = run_case(
        model,
        "difference",
        RESAMPLERS["systematic"],
        0.9,
        populations=3000,
        **({"denoiser": Dead(model.length, model.tokens)} if wrong == "dead" else {}),
    )
    assert max(map(abs, check_law(model, result, LAM))) > 2 * Z_BOUND


def test_one_particle_is_the_plain_sampler_and_windows_do_not_matter(model):
    """Bit for bit: weighings and predictions in between change nothing of a lineage that is never replaced."""
    keys = [population_key(0, "one", index) for index in range(300)]
    noise, process = Noise.of(keys, 1), model.process(300, 1)
    expected = process.decode(process.advance(process.init(noise), 0, model.num_steps, noise).ids)
    plan = Plan(1, Every(1), lam=3.0, ess_threshold=1.1, look_ahead=Predictions(2))
    assert steer(model.process(300, 1), Scorer([Weighted("table", model.reward)]), noise, plan).samples == expected
    # and a population does not notice who else is computed with it
    alone = [model.process(1, 1) for _ in range(5)]
    some = [
        one.decode(one.advance(one.init(own), 0, 4, own).ids)[0]
        for key, one in zip(keys, alone, strict=False)
        for own in [Noise.of([key], 1)]
    ]
    assert some == expected[:5]


def test_every_step_costs_one_row_for_each_state(model):
    particles = 50
    noise, process = Noise.of([1], particles), model.process(1, particles)
    state, rows = process.init(noise), 0
    for k in range(model.num_steps):
        distinct = len(torch.unique(state.ids, dim=0))
        _, state = process.predict(state, k, noise, 2)
        assert process.ledger.denoiser_rows - rows == distinct
        rows = process.ledger.denoiser_rows
        state = gather(state, torch.zeros(particles, dtype=torch.int64))  # copies of one: what the network said comes with them
        state = process.advance(state, k, k + 1, noise)
        assert process.ledger.denoiser_rows == rows
    assert process.ledger.head_positions == 2 * model.num_steps * particles * model.length


class Data(Table):
    """Say what is true of texts with a random law: p of a position's clean token given the other positions of x_t."""

    def __init__(self, length, tokens):
        super().__init__(length, tokens)
        states = torch.tensor(list(product(range(tokens), repeat=length)))
        self.states = states[(states * self._radix).sum(-1).argsort()]
        self.data = (1.5 * torch.randn(len(states), dtype=torch.float64, generator=torch.Generator().manual_seed(2))).softmax(0)

    def noised(self, alpha):
        """(clean, noisy, L): how probable a noisy token is given the clean one."""
        same = self.states[:, None] == self.states[None]
        return alpha * same.double() + (1 - alpha) / self.vocab_size

    def encode(self, ids, t):
        each = self.noised(1 - (1 - EPS) * float(t[0]))
        out = torch.zeros(len(self.states), self.max_length, self.vocab_size, dtype=torch.float64)
        for place in range(self.max_length):
            others = [at for at in range(self.max_length) if at != place]
            weight = self.data[:, None] * each[:, :, others].prod(-1)  # of clean texts, given the others of a noisy one
            out[:, place] = weight.T @ torch.nn.functional.one_hot(self.states[:, place], self.vocab_size).double()
        return out.log()[(ids * self._radix).sum(-1)].float()

    def marginal(self, alpha):
        return self.data @ self.noised(alpha).prod(-1)


@pytest.mark.parametrize("chosen", ["at random", "by what is there"])
def test_corrections_leave_the_law_of_noisy_texts_as_it_is(monkeypatch, chosen):
    """Negative control: a position chosen because its token is improbable, as published correctors do, moves it."""
    network, particles, step = Data(2, 3), 40_000, 2
    process = UniformDiffusion(network, torch.full((1, 2), -1), particles, 4, list, corrections=1)
    law = network.marginal(1 - (1 - EPS) * 0.5)
    noise, rng = Noise.of([population_key(0, "corrections")], particles), torch.Generator().manual_seed(0)
    ids = network.states[torch.multinomial(law, particles, replacement=True, generator=rng)]
    if chosen == "by what is there":
        held = network.encode(ids, torch.full((particles,), 0.5)).gather(2, ids[..., None])[..., 0]
        monkeypatch.setattr(UniformDiffusion, "_chosen", lambda self, uniforms: held.argmin(1))
    state = process._correct(uniform.UniformState.of(ids), step, 0, noise)
    assert ((state.ids != ids).sum(1) <= 1).all()
    seen = torch.bincount((state.ids * network._radix).sum(-1), minlength=len(law)).double() / particles
    worst = ((seen - law) / (law * (1 - law) / particles).sqrt()).abs().max()
    assert worst < Z_BOUND if chosen == "at random" else worst > 2 * Z_BOUND


def test_corrections_mend_what_few_steps_get_wrong():
    """Steps draw all positions on their own; with an update of one at a time after each, texts are closer to the data."""
    distance = {}
    for steps, corrections in product((4, 8), (0, 1)):
        model = Uniform(num_steps=steps, corrections=corrections)
        model.denoiser = Data(model.length, model.tokens)
        data = model.denoiser.data[(torch.tensor(model._finished) * model.denoiser._radix).sum(-1)]
        distance[steps, corrections] = float((model.law - data).abs().sum() / 2)
    assert distance[4, 1] < 0.7 * distance[4, 0]
    assert distance[8, 0] < distance[4, 1]  # but as many further steps do more


@pytest.mark.parametrize("settings", [{"corrections": 1}, {"eta": 0.3}])
def test_a_chain_that_goes_back_is_steered_exactly(settings):
    model = Uniform(**settings)
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.9, populations=1500)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND


def test_particle_gibbs(model):
    near, far = after_gibbs(model)
    assert near < 0.03
    assert far > 0.12
