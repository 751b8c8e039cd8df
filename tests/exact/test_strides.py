"""Texts longer than the network, window by window: their law by listing, alone and steered across windows."""

from functools import cached_property
from itertools import product

import pytest
import torch

from fktext.masked.process import MaskedDiffusion
from fktext.masked.strides import Strides, windows
from fktext.smc import RESAMPLERS
from fktext.smc.noise import Noise, population_key
from fktext.smc.potentials import POTENTIALS
from fktext.smc.schedules import At, Every
from fktext.testing.enumerable import Enumerable, TableReward
from fktext.testing.exact import ADAPTIVITY, LAM, Z_BOUND, check_law, run_case
from fktext.text import Text


class Windowed(Enumerable):
    """The enumerable network over texts longer than it, and its law: a window given what the one before left in it, and so on."""

    def __init__(self, window=2, total=3, stride=1, tokens=2, end=None, num_steps=2, seed=0):
        super().__init__(window, tokens, num_steps, seed)
        self.denoiser.table *= 0.6  # so that no text is too rare for its estimate to be near normal
        self.total, self.end = total, end
        self.template = torch.full((total,), self.denoiser.mask_id)
        self.columns = windows(self.template, self.denoiser.mask_id, window, stride)
        begun = {self.spell(ids) for size in range(total + 1) for ids in product(range(tokens), repeat=size)}
        self.texts = sorted({self.spell(ids) for ids in product(range(tokens), repeat=total)})
        self.reward = TableReward(sorted(begun), seed + 1)  # of unfinished texts too, unrelated to what becomes of them

    def spell(self, ids):
        text = "".join(str(token) for token in ids if token != self.denoiser.mask_id)
        return text if self.end is None else text.split(str(self.end))[0]

    def process(self, populations, particles, **settings):
        templates = self.template.expand(populations, -1).clone()
        first = MaskedDiffusion(self.denoiser, templates[:, self.columns[0]], particles, self.num_steps, self._decode, **settings)
        endings = () if self.end is None else (self.end,)
        return Strides(first, templates, self.columns, particles, self._decode, endings=endings)

    @cached_property
    def law(self):
        mask = self.denoiser.mask_id
        mass = {(mask,) * self.total: 1.0}
        for columns in self.columns:
            for step in range(self.num_steps):
                following = {}
                for text, weight in mass.items():
                    for after, probability in self._transitions(tuple(text[at] for at in columns), 1 / (self.num_steps - step)):
                        new = list(text)
                        for at, token in zip(columns.tolist(), after, strict=True):
                            new[at] = token
                        following[tuple(new)] = following.get(tuple(new), 0.0) + weight * probability
                mass = following
        total = dict.fromkeys(self.texts, 0.0)
        for ids, weight in mass.items():
            total[self.spell(ids)] += weight
        return torch.tensor(list(total.values()), dtype=torch.float64)

    def _decode(self, ids, population):
        return [Text(self.spell(row)) for row in ids.tolist()]


MODELS = {
    "two windows": Windowed(),
    "the last one shifted by less": Windowed(window=3, total=4, stride=2),
    "three windows": Windowed(total=4),
    "two windows and an end": Windowed(tokens=3, end=2, seed=5),
}


def z_scores(model, law, texts):
    place = {text: index for index, text in enumerate(model.texts)}
    seen = torch.bincount(torch.tensor([place[text] for text in texts]), minlength=len(law)).double() / len(texts)
    return (seen - law) / (law * (1 - law) / len(texts)).sqrt()


def plain(model, particles=20_000):
    process = model.process(1, particles)
    noise = Noise.of([population_key(0, "strides")], particles)
    return process.decode(process.advance(process.init(noise), 0, process.num_steps, noise).ids)


@pytest.mark.parametrize("name", MODELS)
def test_law(name):
    model = MODELS[name]
    assert model.law.sum() == pytest.approx(1, abs=1e-9)
    assert z_scores(model, model.law, plain(model)).abs().max() < Z_BOUND


def test_the_comparison_has_teeth():
    """A second window that sees nothing of the first has another law."""
    model = MODELS["two windows"]
    alone = model.denoiser.encode(torch.tensor([[2, 2]]), torch.ones(1))[0, 1, :2]
    first = Enumerable(2, 2, 2)
    first.denoiser.table *= 0.6
    law = (first.law[:, None] * torch.softmax(alone.double(), -1)).flatten()
    assert law.sum() == pytest.approx(1, abs=1e-9)
    assert z_scores(model, law, plain(model)).abs().max() > Z_BOUND


def test_windows_that_share_their_noise_are_caught(monkeypatch):
    monkeypatch.setattr(Strides, "_noise", lambda self, noise, number: noise)
    model = MODELS["two windows"]
    assert z_scores(model, model.law, plain(model)).abs().max() > Z_BOUND


@pytest.mark.parametrize(
    ("name", "potential", "adaptivity"),
    [
        *(("two windows", potential, adaptivity) for potential in POTENTIALS for adaptivity in ADAPTIVITY),
        *((name, "difference", "ess") for name in MODELS if name != "two windows"),
    ],
)
def test_steered_populations_are_unbiased(name, potential, adaptivity):
    model = MODELS[name]
    result = run_case(model, potential, RESAMPLERS["systematic"], ADAPTIVITY[adaptivity], populations=1200)
    z_norm, z_law = check_law(model, result, LAM)
    assert abs(z_norm) < Z_BOUND
    assert z_law < Z_BOUND
    share = torch.stack([step.resampled for step in result.steps[:-1]]).double().mean()
    assert (share > 0) == (adaptivity == "always" or (adaptivity == "ess" and potential != "terminal"))


@pytest.mark.parametrize("schedule", [Every(3), Every(2), At([1, 3])])
def test_weighings_inside_across_and_between_windows(schedule):
    model = MODELS["two windows"]
    result = run_case(model, "difference", RESAMPLERS["systematic"], 0.9, populations=1200, schedule=schedule)
    assert max(map(abs, check_law(model, result, LAM))) < Z_BOUND
