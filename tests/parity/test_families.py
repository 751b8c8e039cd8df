"""Every family from a folder to steered text: one particle is the plain sampler, and steering raises a reward nobody steered by."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fktext.models import load
from fktext.rewards import Weighted
from fktext.settings import Settings, TextRun
from fktext.smc.noise import Noise, population_key
from fktext.testing.model_check import run
from fktext.texts.generate import Population, generate
from fktext.texts.model import TextModel

Checkpoint = Callable[[str], Path]
FAMILIES = (
    "dit",
    "bd3lm",
    "mlm",
    "llada",
    "dream",
    "sdar",
    "a2d-mdlm",
    "a2d-bd3lm",
    "llada2",
    "e2d2",
    "e2d2-share",
    "sedd",
    "duo",
    "diffusiongemma",
    "ssdlm",
)
RUNS = [
    *((family, "") for family in FAMILIES),
    *(("bd3lm", kernel) for kernel in ("ancestral", "any-order")),
    ("sedd", "sedd-normalised"),
    *(("duo", f"uniform-{kernel}") for kernel in ("gibbs", "psi")),
    *(("dit", f"remdm-{strategy}") for strategy in ("cap", "rescale", "conf", "loop")),
    *(("ssdlm", f"simplex-{projection}") for projection in ("even", "uneven")),
]
PROMPT = "w5 w6"


def number(word: str) -> int:
    return int(word[1:]) if word[1:].isdigit() else -1


class Low:
    """How many of the words that follow the prompt have a small number: what is steered by."""

    def score(self, samples: Sequence[str]) -> list[float]:
        return [sum(0 <= number(word) < 40 for word in sample.split()[2:]) / 4 for sample in samples]


class Small:
    """Minus the mean of their numbers: what is measured."""

    def score(self, samples: Sequence[str]) -> list[float]:
        found = [[number(word) for word in sample.split()[2:] if number(word) >= 0] for sample in samples]
        return [-sum(values) / max(1, len(values)) for values in found]


def settings(model: TextModel, kernel: str, **changes: object) -> TextRun:
    length = min(16, model.denoiser.max_length)
    base = Settings(length=length, steps=12, kernel=kernel or None, resample_every=2, lam=4.0, seed=3)
    return model.resolve(replace(base, **changes))


def populations(model: TextModel, chosen: TextRun) -> list[Population]:
    run = generate(model, [Weighted("low", Low())], [PROMPT], chosen)
    return [item for item in run if isinstance(item, Population)]


def plain(model: TextModel, chosen: TextRun) -> list[str]:
    """The sampler alone, in one go, without engine, rewards or weighings."""
    keys = [population_key(chosen.seed, PROMPT, sample) for sample in range(chosen.samples)]
    assert chosen.length is not None
    template = model.template(PROMPT, chosen.length)
    process = model.process([PROMPT] * len(keys), [template] * len(keys), chosen, 64)
    noise = Noise.of(keys, 1)
    state = process.advance(process.init(noise), 0, process.num_steps, noise)
    return list(process.decode(process.predict(state, process.num_steps, noise, 1)[0]))


@pytest.mark.parametrize(("family", "kernel"), RUNS)
def test_one_particle_is_the_plain_sampler(family: str, kernel: str, checkpoint: Checkpoint) -> None:
    model = load(str(checkpoint(family)))
    one = settings(model, kernel, particles=1, samples=6)
    expected = plain(model, one)
    assert len(set(expected)) > 1
    assert [population.texts[0] for population in populations(model, one)] == expected
    # of several particles that are weighed and resampled, some go another way
    many = [
        text for population in populations(model, replace(one, particles=4, ess_threshold=1.1)) for text in population.texts[:1]
    ]
    assert many != expected


@pytest.mark.parametrize(("family", "kernel"), RUNS)
def test_steering_raises_a_reward_it_does_not_know(family: str, kernel: str, checkpoint: Checkpoint) -> None:
    model = load(str(checkpoint(family)))

    def measured(method: str) -> float:
        found = populations(model, settings(model, kernel, particles=8, samples=12, method=method))
        return float(torch.tensor(Small().score([population.texts[population.best()] for population in found])).mean())

    assert measured("base") < measured("fk")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_models_check_passes(family: str, dtype: str, checkpoint: Checkpoint) -> None:
    rows = list(run(load(str(checkpoint(family)), dtype=dtype)))
    assert len(rows) >= 6
    assert [row for row in rows if not row.passed] == []


@pytest.mark.parametrize("family", ["llada", "dream", "sdar", "a2d-mdlm", "a2d-bd3lm", "llada2"])
def test_the_head_runs_where_a_token_is_drawn(family: str, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(str(checkpoint(family)))
    seen: list[int] = []
    whole = type(model.denoiser).logits
    monkeypatch.setattr(type(model.denoiser), "logits", lambda self, hidden: (seen.append(len(hidden)), whole(self, hidden))[1])
    chosen = settings(model, "", particles=4, samples=1, method="base", length=16)
    populations(model, chosen)
    assert sum(seen) == 14  # as many positions as there are words to write


def test_bfloat16_weights_are_that_small(checkpoint: Checkpoint) -> None:
    for family in FAMILIES:
        model = load(str(checkpoint(family)), dtype="bfloat16")
        found = {parameter.dtype for parameter in model.denoiser.parameters()}  # type: ignore[attr-defined]
        assert found == {torch.bfloat16}
