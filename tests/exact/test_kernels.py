"""First hitting, remasking and SEDD's analytic kernel on the enumerable model: their laws by listing, alone and steered."""

import math
from functools import cached_property
from itertools import permutations, product

import pytest
import torch

from fktext.masked.any_order import AnyOrder
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.remdm import ReMDM, rates, shares
from fktext.masked.sedd import AnalyticSEDD, sigma
from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.process import gather
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import LAM, Z_BOUND, check_law, run_case

# eta large enough that remasking matters in a few steps; "loop" needs steps inside its loop
REMASKING = {"cap": 0.4, "rescale": 0.7, "conf": 1.0, "loop": 0.08}


class Kernel(Enumerable):
    """The enumerable model under another kernel; position 0 may be clamped to a token."""

    clamped = None

    def templates(self, populations):
        templates = torch.full((populations, self.length), self.denoiser.mask_id)
        if self.clamped is not None:
            templates[:, 0] = self.clamped
        return templates

    @cached_property
    def law(self):
        """By recursion over what a particle is: its ids, and for each the probability it was drawn with (inf where none was)."""
        start = tuple((token, math.inf) for token in self.templates(1)[0].tolist())
        mass = {start: 1.0}
        for step in range(1, self.num_steps + 1):
            following = {}
            for state, weight in mass.items():
                for after in product(*self.choices(state, step)):
                    probability = math.prod(chance for _, _, chance in after)
                    if probability > 0:
                        key = tuple((token, confidence) for token, confidence, _ in after)
                        following[key] = following.get(key, 0.0) + weight * probability
            mass = following
        total = dict.fromkeys(self._finished, 0.0)
        for state, weight in mass.items():
            total[tuple(token for token, _ in state)] += weight
        return torch.tensor([total[ids] for ids in self._finished], dtype=torch.float64)

    def raw(self, state):
        return self.denoiser.encode(torch.tensor([[token for token, _ in state]]), torch.ones(1))[0].double()[:, : self.tokens]


class Remasking(Kernel):
    def __init__(self, strategy, **settings):
        super().__init__(**settings)
        self.strategy, self.eta = strategy, REMASKING[strategy]

    def process(self, populations, particles, **settings):
        return ReMDM(
            self.denoiser,
            self.templates(populations),
            particles,
            self.num_steps,
            self._decode,
            strategy=self.strategy,
            eta=self.eta,
            **settings,
        )

    def choices(self, state, step):
        """For each position: (token, confidence, probability) of what may become of it."""
        mask = self.denoiser.mask_id
        rate = rates(self.strategy, self.eta, 1 - (step - 1) / self.num_steps, 1 - step / self.num_steps)
        share = shares(torch.tensor([[confidence for _, confidence in state]]))[0].tolist()
        probs = torch.softmax(self.raw(state), -1).tolist()
        for place, (token, confidence) in enumerate(state):
            back = rate.sigma * share[place] if self.strategy == "conf" else rate.sigma
            if place == 0 and self.clamped is not None:
                yield [(token, confidence, 1.0)]
            elif token != mask:
                yield [(token, confidence, 1 - back), (mask, math.inf, back)]
            else:
                reveal = rate.reveal(back)
                drawn = ((new, round(chance, 6), reveal * chance) for new, chance in enumerate(probs[place]))
                yield [(mask, math.inf, 1 - reveal), *drawn]


class Scores(Kernel):
    def process(self, populations, particles, **settings):
        return AnalyticSEDD(self.denoiser, self.templates(populations), particles, self.num_steps, self._decode, **settings)

    def choices(self, state, step):
        mask = self.denoiser.mask_id
        before, after = sigma(1 - (step - 1) / self.num_steps), sigma(1 - step / self.num_steps)
        scores = self.raw(state).exp() / math.expm1(before) / self.tokens
        for place, (token, _) in enumerate(state):
            if token != mask:
                yield [(token, math.inf, 1.0)]
                continue
            total = float(scores[place].sum())
            reveal = 1.0 if step == self.num_steps else min(1.0, math.expm1(before - after) * total)
            yield [
                (mask, math.inf, 1 - reveal),
                *((new, math.inf, reveal * float(scores[place, new]) / total) for new in range(self.tokens)),
            ]


class OneByOne(Kernel):
    """In continuous time: every order in which positions can be revealed is as likely as any other."""

    def __init__(self, kind, **settings):
        super().__init__(**settings)
        self.kind = kind

    def process(self, populations, particles, **settings):
        return self.kind(self.denoiser, self.templates(populations), particles, self.num_steps, self._decode, **settings)

    @cached_property
    def law(self):
        orders = list(permutations(range(self.length)))
        return torch.tensor(
            [sum(self.chance(ids, order) for order in orders) / len(orders) for ids in self._finished], dtype=torch.float64
        )

    def chance(self, ids, order):
        state, chance = [(self.denoiser.mask_id, math.inf)] * self.length, 1.0
        for place in order:
            chance *= float(torch.softmax(self.raw(state)[place], -1)[ids[place]])
            state[place] = (ids[place], math.inf)
        return chance


def make(name, **settings):
    if name in ONE_BY_ONE:
        return OneByOne(ONE_BY_ONE[name], **settings)
    return Scores(**settings) if name == "sedd" else Remasking(name, **settings)


ONE_BY_ONE = {"first-hitting": FirstHitting, "any-order": AnyOrder}
KERNELS = [*REMASKING, "sedd", *ONE_BY_ONE]


def plain(model, particles=40_000):
    noise = Noise.of([population_key(0, "kernels")], particles)
    process = model.process(1, particles)
    return process.decode(process.advance(process.init(noise), 0, model.num_steps, noise).ids)


def z_scores(law, model, texts):
    place = {text: index for index, text in enumerate(model.texts)}
    seen = torch.bincount(torch.tensor([place[text] for text in texts]), minlength=len(law)).double() / len(texts)
    assert (seen[law == 0] == 0).all()
    return ((seen - law) / (law * (1 - law) / len(texts)).sqrt())[law > 0]


@pytest.mark.parametrize("name", KERNELS)
def test_law(name):
    model = make(name, num_steps=6)
    assert model.law.sum() == pytest.approx(1, abs=1e-9)
    texts = plain(model)
    assert z_scores(model.law, model, texts).abs().max() < Z_BOUND
    # the comparison has teeth: the plain sampler's law is another one
    assert z_scores(Enumerable(num_steps=6).law, model, texts).abs().max() > Z_BOUND


@pytest.mark.parametrize("name", REMASKING)
def test_clamped_positions_are_never_remasked_and_leave_the_others_their_law(name):
    model = make(name, num_steps=6)
    model.clamped = 1
    texts = plain(model)
    assert {text[0] for text in texts} == {"1"}
    assert z_scores(model.law, model, texts).abs().max() < Z_BOUND


def test_remasking_happens_and_ends():
    model = make("cap", num_steps=6)
    noise = Noise.of([1], 500)
    process = model.process(1, 500)
    state, mask, back = process.init(noise), model.denoiser.mask_id, 0
    for k in range(6):
        before = state.ids
        state = process.advance(state, k, k + 1, noise)
        back += int(((before != mask) & (state.ids == mask)).sum())
        assert torch.equal(state.confidence.isinf(), state.ids == mask)
    assert back > 100
    assert not (state.ids == mask).any()


def test_any_order_brings_all_particles_equally_far():
    model = make("any-order", num_steps=5, length=4)
    noise = Noise.of([1], 60)
    process = model.process(1, 60)
    state = process.init(noise)
    for k in range(5):
        state = process.advance(state, k, k + 1, noise)
        state = gather(state, torch.arange(59, -1, -1))  # others go on with them
        masks = (state.ids == model.denoiser.mask_id).sum(1)
        assert masks.unique().tolist() == [4 - (k + 1) * 4 // 5]
    assert process.ledger.denoiser_rows <= 60 * 4


@pytest.mark.parametrize("name", KERNELS)
def test_steered_populations_are_unbiased(name):
    model = make(name)
    for potential in ("difference", "max"):
        result = run_case(model, potential, RESAMPLERS["systematic"], 1.1, populations=1200)
        z_norm, z_law = check_law(model, result, LAM)
        assert abs(z_norm) < Z_BOUND
        assert z_law < Z_BOUND


@pytest.mark.parametrize("name", KERNELS)
def test_the_plain_samplers_law_is_refused(name):
    """Negative control: many populations are told apart from a tilt of the ancestral sampler."""
    model = make(name, num_steps=6)
    result = run_case(model, "difference", RESAMPLERS["systematic"], 1.1, populations=2500, particles=8)
    assert check_law(Enumerable(num_steps=6), result, LAM)[1] > Z_BOUND


@pytest.mark.parametrize("name", KERNELS)
def test_one_particle_is_the_base_sampler_and_lambda_zero_keeps_lineages(name):
    model = make(name, num_steps=6)
    keys = [population_key(0, index) for index in range(60)]
    scorer = Scorer([Weighted("table", model.reward)])

    def run(particles, plan, **settings):
        return steer(model.process(60, particles, **settings), scorer, Noise.of(keys, particles), plan)

    base = run(1, Plan(1, At([]), lam=1.0, ess_threshold=0))
    assert run(1, Plan(1, Every(1), lam=1.0, ess_threshold=1.1)).samples == base.samples
    eight = run(8, Plan(8, At([]), POTENTIALS["terminal"], lam=1.0, ess_threshold=0))
    flat = run(8, Plan(8, Every(2), lam=0.0, ess_threshold=1.1))
    assert flat.samples == eight.samples
    assert torch.equal(flat.roots, torch.arange(8).expand(60, 8))
    assert run(8, Plan(8, Every(2), lam=0.0, ess_threshold=1.1), batch_size=3).samples == eight.samples
