"""Guided proposals, whatever guides them, leave the law of the result as it is."""

from collections import defaultdict
from dataclasses import replace
from itertools import product

import pytest
import torch

from fktext.masked import guided
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.guided import Guided
from fktext.masked.kernels import KERNELS
from fktext.masked.sampling import token_probs
from fktext.masked.straight_through import StraightThrough
from fktext.rewards import Scorer, TokenGradient, Weighted
from fktext.smc.lookahead import Nothing, Predictions, Values
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.process import gather
from fktext.smc.resamplers import RESAMPLERS
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import LAM, Z_BOUND, check_law

STRENGTH = 1.0


class Table:
    """Scores as a table of all states gives them; what is kept of a row are the scores themselves."""

    def __init__(self, model, rows):
        self.rows, self.radix = rows, (model.tokens + 1) ** torch.arange(model.length)

    def slopes(self, ids, t):
        return self.rows((1 - t[0]).item())[(ids * self.radix).sum(-1)]

    def scores(self, slopes):
        return slopes


def value_to_go(model, lam):
    """By listing: log E[exp(lambda r(x0)) | x_k] of every state, for each k; a dictionary per step."""
    mask, final = model.denoiser.mask_id, dict(zip(model.texts, (lam * model.rewards).exp().tolist(), strict=True))
    states = list(product(range(mask + 1), repeat=model.length))
    h = [defaultdict(float) for _ in range(model.num_steps + 1)]
    h[-1] |= {ids: final["".join(map(str, ids))] for ids in states if mask not in ids}
    for k in reversed(range(model.num_steps)):
        for ids in states:
            h[k][ids] = sum(
                p * h[k + 1][after] for after, p in model._transitions(ids, 1 / (model.num_steps - k)) if after in h[k + 1]
            )
    return [{ids: torch.tensor(max(value, 1e-30)).log() for ids, value in step.items()} for step in h]


def helpful(model, lam=LAM):
    """Differences of the true log h: what revealing v at i changes, the others as they are."""
    mask, to_go, tables = model.denoiser.mask_id, value_to_go(model, lam), []
    for k in range(model.num_steps):
        table = torch.zeros((mask + 1) ** model.length, model.length, mask + 1)
        for ids in to_go[k]:
            index = sum(token * (mask + 1) ** place for place, token in enumerate(ids))
            for place, token in product(range(model.length), range(mask)):
                if ids[place] == mask:
                    after = (*ids[:place], token, *ids[place + 1 :])
                    table[index, place, token] = to_go[k][after] - to_go[k][ids]
        tables.append(table)
    return Table(model, lambda gone: tables[round(gone * model.num_steps)])


def adversarial(model, lam=LAM):
    """The opposite of what helps."""
    right = helpful(model, lam)
    return Table(model, lambda gone: -right.rows(gone))


def arbitrary(model, lam=LAM):
    """Numbers that have nothing to do with anything, of both signs and another scale at each time."""
    states = (model.tokens + 1) ** model.length
    table = torch.randn(states, model.length, model.tokens + 1, generator=torch.Generator().manual_seed(77))
    return Table(model, lambda gone: (1 + gone) * table)


def nowhere(model, lam=LAM):
    """Zero."""
    return Table(model, lambda gone: torch.zeros((model.tokens + 1) ** model.length, model.length, model.tokens + 1))


def straight_through(model, lam=LAM):
    """The gradient of a random judge, nothing like the reward, that does not know the token 0."""
    rng = torch.Generator().manual_seed(9)
    embeddings, mix, head = (2 * torch.randn(*size, generator=rng) for size in ((3, 4), (4 * model.length, 4), (4,)))
    judge = TokenGradient({"1": 2, "2": 0, "x": 1}, embeddings, lambda embedded, here: (embedded.flatten(1) @ mix).tanh() @ head)
    return StraightThrough(model.denoiser, [judge], [1.0], lam, {str(token): token for token in range(model.tokens)}, ())


SCORES = {"helpful": helpful, "adversarial": adversarial, "arbitrary": arbitrary}


@pytest.fixture(scope="module")
def model():
    return Enumerable()


def run(
    model, scores, potential="difference", *, kernel="ancestral", lam=LAM, corrected=True, strength=STRENGTH, settings=None, **how
):
    """Steer guided populations: of 3 particles, weighed after every step, unless `how` says otherwise."""
    how = {
        "populations": 1500,
        "particles": 3,
        "schedule": Every(1),
        "threshold": 0.95,
        "look_ahead": Predictions(2),
        "seed": 5,
    } | how
    templates = torch.full((how["populations"], model.length), model.denoiser.mask_id)
    own = KERNELS[kernel].build(model.denoiser, templates, how["particles"], model.num_steps, model._decode, **(settings or {}))
    process = Guided(own, scores, strength, corrected=corrected)
    plan = Plan(
        how["particles"],
        how["schedule"],
        POTENTIALS[potential],
        RESAMPLERS["systematic"],
        lam=lam,
        ess_threshold=how["threshold"],
        look_ahead=how["look_ahead"],
        temper=how.get("temper"),
    )
    keys = [population_key(how["seed"], "guided", index) for index in range(how["populations"])]
    return steer(process, Scorer([Weighted("table", model.reward)]), Noise.of(keys, how["particles"]), plan)


def worst(model, result, lam=LAM, rarest=0.0):
    return max(map(abs, check_law(model, result, lam, rarest=rarest)))


def altered(**settings):
    """A model of three tokens whose table has a nucleus or temperature in it already, so that its law is listed."""
    model = Enumerable(tokens=3)
    table = model.denoiser.table
    model.denoiser.table = token_probs(table.flatten(0, -2), torch.tensor([3]), **settings).log().view_as(table)
    return model


@pytest.mark.parametrize(("name", "potential"), list(product(SCORES, POTENTIALS)))
def test_any_scores_leave_the_law_as_it_is(model, name, potential):
    result = run(model, SCORES[name](model), potential)
    assert worst(model, result) < Z_BOUND
    assert torch.stack([step.resampled for step in result.steps]).any()


@pytest.mark.parametrize("tokens", [2, 3])
def test_the_gradient_of_a_judge_leaves_the_law_as_it_is(tokens):
    model = Enumerable(tokens=tokens)
    right, wrong = (run(model, straight_through(model), corrected=corrected) for corrected in (True, False))
    assert worst(model, right, rarest=1 / 200) < Z_BOUND
    assert worst(model, wrong, rarest=1 / 200) > 2 * Z_BOUND


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("schedule", [At([]), At([1]), At([2])])
def test_scores_may_be_old(model, name, schedule):
    """They are asked for after the weighing, and hold until the next, or the end."""
    assert worst(model, run(model, SCORES[name](model), schedule=schedule)) < Z_BOUND


@pytest.mark.parametrize("name", SCORES)
def test_what_is_tempered_is_the_potential_not_the_correction(model, name):
    result = run(model, SCORES[name](model), temper=0.94, threshold=0.97)
    assert worst(model, result) < Z_BOUND
    tau = torch.stack([step.tau for step in result.steps])
    assert 0.05 < (tau[:-1] < 1).double().mean() < 0.98


def test_the_continuous_kernel_is_guided_too(model):
    """Its base law is no grid's, so what is compared are estimates of the same law with and without guidance."""

    def mass(result):
        place = {text: index for index, text in enumerate(model.texts)}
        index = torch.tensor([place[text] for text in result.samples]).reshape(len(result.log_z), -1)
        each = torch.zeros(len(result.log_z), len(model.texts), dtype=torch.float64)
        return each.scatter_add_(1, index, result.log_w.exp() * result.log_z.exp()[:, None])

    plain, tilted = (mass(run(model, scores(model), kernel="first-hitting", populations=2500)) for scores in (nowhere, arbitrary))
    wrong = mass(run(model, arbitrary(model), kernel="first-hitting", populations=2500, corrected=False))
    error = ((plain.var(0) + tilted.var(0)) / 2500).sqrt()
    assert ((plain.mean(0) - tilted.mean(0)) / error).abs().max() < Z_BOUND
    assert ((plain.mean(0) - wrong.mean(0)) / error).abs().max() > 2 * Z_BOUND
    assert KERNELS["first-hitting"].build is FirstHitting


@pytest.mark.parametrize("settings", [{"top_p": 0.6}, {"temperature": 0.5}])
def test_nucleus_and_temperature_belong_to_the_law_that_is_tilted(settings):
    """The law of the sampler with a nucleus or temperature is listed from a table that has them already."""
    model, listed = Enumerable(tokens=3), altered(**settings)
    result = run(model, arbitrary(model), settings=settings, populations=2500)
    assert worst(listed, result, rarest=1 / 200) < Z_BOUND


def test_strength_zero_draws_what_is_drawn_without_guidance(model):
    plain = run(model, nowhere(model), populations=50)
    still = run(model, arbitrary(model), strength=0.0, populations=50)
    assert plain.samples == still.samples
    assert torch.equal(plain.log_w, still.log_w)


def test_helpful_scores_make_weights_vary_less():
    model = Enumerable(length=3, tokens=2, num_steps=24)
    variance = {}
    for name, scores in {"none": nowhere, **SCORES}.items():
        result = run(model, scores(model, 2.0), lam=2.0, populations=3000, particles=1, look_ahead=Nothing(), threshold=0.0)
        variance[name] = float(result.log_z.var())
        assert worst(model, result, 2.0) < Z_BOUND
    assert variance["helpful"] < 0.2 * variance["none"] < variance["none"] < variance["adversarial"]


def test_forgetting_the_correction_is_caught(model):
    """Negative control, which is D-CBG."""
    for name in ("arbitrary", "adversarial"):
        assert worst(model, run(model, SCORES[name](model), corrected=False, strength=2.0)) > 2 * Z_BOUND


def test_a_correction_that_does_not_follow_its_particle_is_caught(model, monkeypatch):
    """Negative control: offspring have the log p - log q of the slot they move into."""

    def stays(state, ancestors):
        return replace(gather(state, ancestors), log_ratio=state.log_ratio)

    monkeypatch.setattr("fktext.smc.steer.gather", stays)
    assert worst(model, run(model, arbitrary(model), strength=2.0)) > 2 * Z_BOUND


def test_an_end_that_leaves_it_out_is_caught(model, monkeypatch):
    """Negative control: the correction is in every weighing but the last."""
    mask = model.denoiser.mask_id
    monkeypatch.setattr(
        Guided, "log_ratio", lambda process, state: state.log_ratio if (state.own.ids == mask).any() else 0 * state.log_ratio
    )
    assert worst(model, run(model, arbitrary(model), strength=2.0)) > 2 * Z_BOUND


def test_a_tilt_before_the_nucleus_is_caught(monkeypatch):
    """Negative control: q then has tokens that p has not, and lacks some that p has."""
    model = Enumerable(tokens=3)
    scores, forbidden = arbitrary(model), torch.tensor([3])

    class Early(guided._Window):
        def draw(self, hidden, uniforms, row, column):
            rows = torch.unique(row)
            if self._slopes is None:
                distinct, self._place[rows] = torch.unique(self._ids[rows], dim=0, return_inverse=True)
                self._slopes = self._ask(distinct)
            found = scores.scores(self._slopes[self._place[row], column])
            whole = token_probs(hidden, forbidden)
            factor = guided.tilt(whole, found, STRENGTH)
            tilted = token_probs(hidden + factor, forbidden, 1.0, 0.6)
            chosen = guided.draw_tokens(tilted, uniforms)
            log_z = (tilted.sum(-1, dtype=torch.float64) / whole.sum(-1, dtype=torch.float64)).log()
            self.log_ratio.index_add_(0, row, log_z - factor.gather(1, chosen)[:, 0])
            return chosen

    monkeypatch.setattr(guided, "_Window", Early)
    wrong = run(model, scores, settings={"top_p": 0.6}, populations=2500)
    assert worst(altered(top_p=0.6), wrong) > 2 * Z_BOUND


def test_one_row_is_asked_once_a_window(model):
    """Particles that are equal at a weighing share a gradient, and a window that reveals nothing asks for none."""
    process = Guided(model.process(2, 4), arbitrary(model), 1.0)
    noise = Noise.of([1, 2], 4)
    process.advance(process.init(noise), 0, model.num_steps, noise)
    assert process.ledger.gradient_rows == 1


def test_values_of_the_network_look_ahead_in_a_guided_process(model):
    result = run(model, helpful(model), look_ahead=Values([lambda features: features.unknown + features.hidden.mean((1, 2))]))
    assert worst(model, result) < Z_BOUND
