"""Windows over long texts: where they lie, what they cost, and what does not change a text."""

from itertools import pairwise

import pytest
import torch

from fktext.masked.any_order import AnyOrder
from fktext.masked.confidence import ConfidenceUnmasking
from fktext.masked.first_hitting import FirstHitting
from fktext.masked.process import MaskedDiffusion
from fktext.masked.remdm import ReMDM
from fktext.masked.sedd import AnalyticSEDD
from fktext.masked.strides import Strides, windows
from fktext.rewards import Scorer, Weighted
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Predictions
from fktext.smc.noise import Noise, population_key
from fktext.smc.process import gather
from fktext.smc.schedules import At, Every
from fktext.smc.steer import Plan, steer
from fktext.testing.enumerable import TableDenoiser
from fktext.text import Text

MASK = 3
KEYS = [population_key(0, name) for name in "abcd"]
KERNELS = {
    "ancestral": MaskedDiffusion,
    "first-hitting": FirstHitting,
    "any-order": AnyOrder,
    "remdm": lambda *arguments, **settings: ReMDM(*arguments, strategy="cap", eta=0.3, **settings),
    "sedd": AnalyticSEDD,
    "confidence": ConfidenceUnmasking,
}


class Timed(TableDenoiser):
    """A table that also wants to know the time, as SEDD's network does."""

    time_dependent = True

    def encode(self, ids, t):
        return super().encode(ids, t) * (1 + t[:, None, None])


class Twos:
    def score(self, samples):
        return [float(sample.count("2")) for sample in samples]


def decode(ids, population):
    return [Text("".join(str(token) for token in row if token != MASK)) for row in ids.tolist()]


def make(kernel="ancestral", templates=None, stride=2, particles=1, populations=4, steps=5, endings=(), denoiser=None):
    templates = torch.full((populations, 9), MASK) if templates is None else templates
    columns = windows(templates[0], MASK, 4, stride)
    first = KERNELS[kernel](denoiser or TableDenoiser(4, 3), templates[:, columns[0]], particles, steps, decode)
    return Strides(first, templates, columns, particles, decode, endings=endings)


def run(process, keys=KEYS, particles=1, schedule=None, lam=1.0, threshold=0.9):
    plan = Plan(
        particles,
        schedule or Every(2),
        resampler=RESAMPLERS["systematic"],
        lam=lam,
        ess_threshold=threshold,
        look_ahead=Predictions(2),
    )
    return steer(process, Scorer([Weighted("twos", Twos())]), Noise.of(keys, particles), plan)


def columns(length=9, size=4, stride=2, prompt=0, **frame):
    template = torch.tensor([0] * prompt + [MASK] * (length - prompt))
    return [part.tolist() for part in windows(template, MASK, size, stride, **frame)]


def test_where_windows_lie():
    assert columns() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 7], [5, 6, 7, 8]]
    assert columns(stride=3) == [[0, 1, 2, 3], [3, 4, 5, 6], [5, 6, 7, 8]]
    assert columns(length=4) == [[0, 1, 2, 3]]
    assert columns(prompt=4) == columns()[1:]  # nothing to write in the first one
    assert columns(prompt=5) == columns()[1:]
    assert columns(prompt=6) == columns()[2:]
    assert columns(length=7, size=5, head=1, tail=1) == [[0, 1, 2, 3, 6], [0, 3, 4, 5, 6]]
    for stride in (0, 4):
        with pytest.raises(ValueError, match=f"stride {stride} is outside 1 .. 3"):
            columns(stride=stride)


@pytest.mark.parametrize("length", range(5, 14))
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_windows_cover_every_place_and_see_what_was_written(length, stride):
    found = columns(length, stride=stride)
    for before, after in pairwise(found):
        assert before[-1] + 1 <= after[-1] <= before[-1] + stride  # something new, and no gap
        assert after[0] <= before[-1]  # something to go on from
    assert found[-1][-1] == length - 1


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("timed", [False, True])
def test_one_window_is_the_plain_process(kernel, timed):
    denoiser = Timed(4, 3) if timed else TableDenoiser(4, 3)
    templates = torch.tensor([[MASK] * 4, [1, MASK, 0, MASK]])
    plain = run(KERNELS[kernel](denoiser, templates, 6, 5, decode), KEYS[:2], 6)
    strided = run(make(kernel, templates, particles=6, denoiser=denoiser), KEYS[:2], 6)
    assert strided.samples == plain.samples
    assert torch.equal(strided.log_w, plain.log_w)
    assert torch.equal(strided.log_z, plain.log_z)
    assert strided.ledger.denoiser_rows == plain.ledger.denoiser_rows
    assert [step.k for step in strided.steps] == [step.k for step in plain.steps]


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_particle_is_the_base_sampler_wherever_it_is_weighed(kernel):
    base = run(make(kernel), schedule=At([]))
    assert all(len(text) == 9 for text in base.samples)
    assert len(set(base.samples)) > 1
    for schedule in (Every(1), Every(3), Every(5), At([7])):
        assert run(make(kernel), schedule=schedule, threshold=1.1).samples == base.samples


@pytest.mark.parametrize("kernel", KERNELS)
def test_company_does_not_change_a_text(kernel):
    together = run(make(kernel, particles=5), particles=5)
    for index, key in enumerate(KEYS):
        alone = run(make(kernel, particles=5, populations=1), [key], 5)
        assert alone.samples == together.samples[5 * index : 5 * index + 5]
        torch.testing.assert_close(alone.log_w, together.log_w[index : index + 1])


@pytest.mark.parametrize("kernel", KERNELS)
def test_clamped_places_never_change(kernel):
    templates = torch.full((2, 9), MASK)
    templates[0, :3], templates[1, :2] = torch.tensor([2, 0, 1]), torch.tensor([1, 1])
    templates[:, 6] = 2
    texts = run(make(kernel, templates, particles=20), KEYS[:2], 20).samples
    assert {text[:3] for text in texts[:20]} == {"201"}
    assert {text[:2] for text in texts[20:]} == {"11"}
    assert {text[6] for text in texts} == {"2"}


def test_predictions_are_of_the_text_so_far():
    process = make()
    noise = Noise.of(KEYS, 1)
    state, end = process.init(noise), 0
    for k in range(1, process.num_steps):
        state = process.advance(state, k - 1, k, noise)
        x0, state = process.predict(state, k, noise, 3)
        number, inside = divmod(k, 5)
        written = 4 if k < 5 else process._columns[number - (not inside)][-1] + 1
        assert ((x0 == MASK).sum(-1) == 9 - written).all()
        assert (x0[:, :written] != MASK).all()
        if not inside:  # a window is finished: nothing is guessed
            assert torch.equal(x0, state.ids.repeat_interleave(3, 0))
            done, end = state.ids, written
        if end:  # what earlier windows wrote stays
            assert torch.equal(state.ids[:, :end], done[:, :end])
            assert torch.equal(x0[:, :end], done[:, :end].repeat_interleave(3, 0))


def test_particles_are_copied_with_their_windows():
    process = make(particles=4, populations=1)
    noise = Noise.of(KEYS[:1], 4)
    state = process.advance(process.init(noise), 0, 7, noise)
    copied = gather(state, torch.tensor([2, 2, 2, 2]))
    assert (copied.ids == state.ids[2]).all()
    assert (copied.window.ids == state.window.ids[2]).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_network_call_for_texts_that_ended(kernel):
    """All texts end in their first window, which the prompt fills but for one place: nothing is computed behind it."""

    class Ends(TableDenoiser):
        def __init__(self):
            super().__init__(4, 3)
            self.table[..., 2] = 50.0  # token 2, always

    templates = torch.full((3, 9), MASK)
    templates[:, :3] = torch.tensor([2, 0, 1])  # an ending in the prompt is none
    process = make(kernel, templates, endings=(2,), denoiser=Ends())
    result = run(process, KEYS[:3])
    assert result.samples == ["201222222"] * 3
    assert process.num_steps == 4 * 5
    first = make(kernel, templates[:, :4], denoiser=Ends())
    run(first, KEYS[:3])
    assert process.ledger.denoiser_rows == first.ledger.denoiser_rows
    endless = make(kernel, templates, denoiser=Ends())
    run(endless, KEYS[:3])
    assert endless.ledger.denoiser_rows > process.ledger.denoiser_rows


def test_an_ending_in_the_prompt_ends_nothing():
    class NeverEnds(TableDenoiser):
        def __init__(self):
            super().__init__(4, 3)
            self.table[..., 2] = -50.0

    templates = torch.full((3, 9), MASK)
    templates[:, :3] = torch.tensor([2, 0, 1])
    texts = run(make("ancestral", templates, endings=(2,), denoiser=NeverEnds()), KEYS[:3]).samples
    assert all(text.startswith("201") and len(text) == 9 and "2" not in text[3:] for text in texts)


def test_rows_are_only_those_with_something_to_write():
    """Five more tokens cost at most five more rows, though each window has a thousand steps."""
    process = make(populations=1, steps=1000)
    noise = Noise.of(KEYS[:1], 1)
    process.advance(process.init(noise), 0, process.num_steps, noise)
    assert process.num_steps == 4000
    assert process.ledger.denoiser_rows <= 9
    assert process.ledger.head_positions == 9
