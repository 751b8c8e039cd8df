"""The embedded SSD-LM, as a person runs it: offline, and steered the same way as the masked model."""

import subprocess
import sys

import pytest
import torch

from fktext import Population, RewardContext, Settings, embedded, load, load_plugins
from fktext.simplex.model import SimplexModel
from fktext.texts.generate import generate

NAME = "tiny-ssdlm"
PROMPTS = ["The movie", "My brother", "You are"]


@pytest.fixture(scope="module")
def model():
    return load(NAME, offline=True)


@pytest.fixture(scope="module")
def toxicity():
    return load_plugins().create("toxicity", RewardContext(offline=True))


def populations(model, terms, prompts=PROMPTS, **settings):
    settings = {"particles": 8, "length": 17, "steps": 8, **settings}
    return [item for item in generate(model, terms, prompts, Settings(**settings)) if isinstance(item, Population)]


def test_it_is_small_and_tied(model):
    assert isinstance(model, SimplexModel)
    assert (model.family, model.block) == ("ssdlm", 8)
    assert torch.equal(model.denoiser.embed_sum.weight.T, model.denoiser.model.get_input_embeddings().weight)
    folder = embedded.path(NAME)
    assert not (folder / "embed_sum_layer.pt").exists()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 13e6
    assert "Licence" in (folder / "MODEL_CARD.md").read_text()
    # whole blocks at the default length, and the longest text fits
    assert (model.default_length - 1) % model.block == 0
    assert model.template("", model.default_length)[0] == model.bos_id == model.start_id


def test_command_line():
    command = [sys.executable, "-m", "fktext_cli", "generate", "The movie", "--model", NAME, "--reward", "toxicity"]
    done = subprocess.run(
        [*command, "--particles", "4", "--length", "17", "--steps", "8", "--offline"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the movie")
    assert len(done.stdout.splitlines()) == 1


def test_it_denoises(model):
    """Of a sentence under noise that hides a good part of it, the network finds most words; of the sentence's noise alone, few."""
    from fktext.simplex.process import renoise
    from fktext.simplex.projections import one_hot

    ids = torch.tensor(model.tokenizer.encode("i don't want to go home now.").ids)
    context, block = ids[None, :1], ids[1:9]
    generator = torch.Generator().manual_seed(0)
    clean = one_hot(block, model.denoiser.vocab_size)
    right = {}
    for t in (0.3, 1.0):
        z = torch.randn(16, *clean.shape, generator=generator)
        guesses = model.denoiser.logits(model.denoiser.encode(context.repeat(16, 1), renoise(clean, t, z), t)).argmax(-1)
        right[t] = (guesses == block).float().mean().item()
    assert right[0.3] > 0.7 > 0.4 > right[1.0], right


def test_steering_and_choosing_beat_sampling(model, toxicity):
    mean = {}
    for method in ("base", "best-of-n", "fk"):
        found = populations(model, [toxicity], method=method, samples=2, length=9)
        texts = [item.texts[item.best()] for item in found]
        mean[method] = sum(float(value) for value in toxicity.reward.score(texts)) / len(texts)
    assert mean["base"] + 1 < min(mean["best-of-n"], mean["fk"]), mean


def test_one_particle_is_the_base_model(model, toxicity):
    base = populations(model, [], method="base")
    steered = populations(model, [toxicity], particles=1)
    assert [item.texts for item in steered] == [item.texts for item in base]
