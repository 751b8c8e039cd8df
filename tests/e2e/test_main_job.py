"""The main job on the embedded models, as a person runs it."""

import json
import subprocess
import sys
import time

import pytest

from fktext import Population, RewardContext, Settings, load, load_plugins
from fktext.texts.generate import generate
from fktext_cli.beside import unsteered

PROMPTS = ["The movie", "The president of the country", "The road", "My brother"]


def fktext(*arguments, **kwargs):
    command = [sys.executable, "-m", "fktext_cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)


@pytest.fixture(scope="module")
def model():
    return load("tiny-mdlm", offline=True)


@pytest.fixture(scope="module")
def toxicity():
    return load_plugins().create("toxicity", RewardContext(offline=True))


@pytest.fixture(scope="module")
def heldout():
    return load_plugins().create("toxicity:model=heldout-toxicity", RewardContext(offline=True))


def populations(model, terms, prompts, **settings):
    settings = {"particles": 8, "length": 24, "steps": 48, **settings}
    return [item for item in generate(model, terms, prompts, Settings(**settings)) if isinstance(item, Population)]


def test_readmes_command():
    started = time.monotonic()
    done = fktext("generate", "The movie", "--reward", "toxicity", "--particles", "16")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the movie")
    assert len(done.stdout.splitlines()) == 1
    assert "toxic" in done.stderr.splitlines()[0]  # says which way it steers
    assert time.monotonic() - started < 120


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10))
def test_at_any_seed_the_steered_text_of_readmes_command_is_worth_more_than_the_unsteered(model, seed):
    """As a terminal shows the two: the text that is returned, and what the model writes by itself with the same seed."""
    terms, asked = [load_plugins().create("sentiment", RewardContext(offline=True))], Settings(particles=16, seed=seed)
    steered, plain = (
        next(item for item in generate(model, terms, ["The movie"], settings) if isinstance(item, Population))
        for settings in (asked, unsteered(asked))
    )
    assert steered.rewards[steered.best()] > plain.rewards[0], (steered.texts[steered.best()], plain.texts[0])


def test_rows_say_enough_to_run_again(tmp_path):
    arguments = (
        "generate",
        "The lake",
        "-r",
        "toxicity:target=nontoxic",
        "-n",
        "4",
        "--length",
        "10",
        "--steps",
        "8",
        "--seed",
        "5",
    )
    first = fktext(*arguments, "--return", "all", "--format", "jsonl", "--output", str(tmp_path / "rows.jsonl"))
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    again = fktext(*arguments, "--return", "all", "--format", "jsonl", "--batch-size", "2")
    for one, other in zip(rows, map(json.loads, again.stdout.splitlines()), strict=True):
        assert one["text"] == other["text"]
        assert one["reward"] == pytest.approx(other["reward"], abs=1e-4)


def test_steering_beats_choosing_beats_sampling(model, toxicity, heldout):
    """By the judge that steers and by the one that does not."""
    mean = {}
    for method in ("base", "best-of-n", "fk"):
        found = populations(model, [toxicity], PROMPTS, method=method)
        texts = [item.texts[item.best()] for item in found]
        mean[method] = [sum(float(value) for value in term.reward.score(texts)) / len(texts) for term in (toxicity, heldout)]
    assert mean["base"][0] < mean["best-of-n"][0] < mean["fk"][0], mean
    assert mean["base"][1] < mean["fk"][1], mean


def test_one_particle_is_the_base_model(model, toxicity):
    base = populations(model, [], PROMPTS, method="base")
    steered = populations(model, [toxicity], PROMPTS, particles=1)
    assert [item.texts for item in steered] == [item.texts for item in base]


def test_result_does_not_depend_on_company_or_order(model, toxicity):
    together = populations(model, [toxicity], PROMPTS, particles=2)
    turned = populations(model, [toxicity], PROMPTS[::-1], particles=2)[::-1]
    alone = [item for prompt in PROMPTS for item in populations(model, [toxicity], [prompt], particles=2)]
    for one, two, three in zip(together, turned, alone, strict=True):
        assert one.texts == two.texts == three.texts
        assert one.roots.tolist() == two.roots.tolist() == three.roots.tolist()
        assert one.log_z == pytest.approx(two.log_z, abs=1e-3)


def test_equal_prompts_get_different_texts(model):
    found = populations(model, [], ["The road", "The road"], method="base", samples=2)
    assert len({item.key for item in found}) == 4
    assert len({item.texts[0] for item in found}) > 1
