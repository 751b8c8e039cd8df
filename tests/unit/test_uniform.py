"""DUO from a folder to steered texts: batches, methods, the command line, and what memory does."""

import json
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

import fktext
import tiny
from fktext.models import load
from fktext.rewards import Weighted
from fktext.settings import Settings
from fktext.smc.lookahead import Values
from fktext.smc.noise import Noise
from fktext.texts.generate import Population, generate
from fktext.texts.values import Status, fit_values
from fktext_cli import app

PROMPTS = ["w5", "w5 w6 w7 w8 w9", "w10 w11", ""]


class Sevens:
    """How many words have a 7."""

    def score(self, samples):
        return [float(sum("7" in word for word in sample.split())) for sample in samples]


@pytest.fixture
def folder(tmp_path):
    return tiny.golden("duo", tmp_path / "duo")


@pytest.fixture
def model(folder):
    return load(str(folder))


def run(model, prompts, batch_size=None, **settings):
    asked = Settings(
        **{"particles": 4, "length": 14, "steps": 6, "resample_every": 2, "lam": 2.0, "ess_threshold": 0.9, **settings}
    )
    found = generate(model, [Weighted("sevens", Sevens())], prompts, asked, batch_size=batch_size)
    return [item for item in found if isinstance(item, Population)]


def test_company_and_batches_do_not_matter(model):
    together = run(model, PROMPTS)
    assert any(bool(step.resampled) for item in together for step in item.steps)
    for prompt, item in zip(PROMPTS, together, strict=True):
        (alone,) = run(model, [prompt], batch_size=3)
        assert alone.texts == item.texts
        assert {text.prompt for text in item.texts} == {prompt}
        torch.testing.assert_close(alone.log_w, item.log_w)


@pytest.mark.parametrize("method", ["fk", "best-of-n", "base", "svdd", "beam", "particle-gibbs"])
def test_methods(model, method):
    found = run(model, ["w5"], samples=4, particles=8, method=method, **({"candidates": 4} if method in ("svdd", "beam") else {}))
    assert len(found) == 4
    assert all(text.startswith("w5") and "PAD" not in text for item in found for text in item.texts)
    if method == "best-of-n":  # nothing is copied and no two states are equal: a row for every step of every particle
        assert sum(item.ledger.denoiser_rows for item in found) == 4 * 8 * 6


def test_gibbs_costs_a_call_more_for_each_step_but_the_last(model):
    (plain,), (mended,) = (
        run(model, ["w5"], particles=8, method="best-of-n", kernel=f"uniform-{name}") for name in ("ancestral", "gibbs")
    )
    assert (plain.ledger.denoiser_rows, mended.ledger.denoiser_rows) == (8 * 6, 8 * 11)
    assert all(text.startswith("w5") for text in mended.texts)
    assert run(model, ["w5"], kernel="uniform-gibbs")[0].texts != run(model, ["w5"])[0].texts


def test_a_greedy_tail_takes_the_likeliest_tokens(model):
    settings = model.resolve(Settings(particles=20, length=10, steps=4, kernel="uniform-greedy-tail", method="best-of-n"))
    plain = model.resolve(Settings(particles=20, length=10, steps=4))
    template, noise = model.template("w5", 10), Noise.of([1], 20)
    greedy, ancestral = (model.process(["w5"], [template], run, 64) for run in (settings, plain))
    before = ancestral.advance(ancestral.init(noise), 0, 3, noise)
    last = greedy.advance(greedy.init(noise), 0, 4, noise).ids
    assert torch.equal(greedy.advance(greedy.init(noise), 0, 3, noise).ids, before.ids)
    logits = model.denoiser.logits(model.denoiser.encode(before.ids, torch.full((20,), 0.25)).flatten(0, 1)).view(20, 10, -1)
    assert torch.equal(last[:, 2:], logits[:, 2:, :101].argmax(-1))
    assert torch.equal(last[:, :2], template[:2].expand(20, -1))
    assert not torch.equal(last, ancestral.advance(before, 3, 4, noise).ids)
    (item,) = run(model, ["w5"], kernel="uniform-greedy-tail", method="best-of-n")
    assert len(item.texts) == 4


def test_a_value_is_fitted_and_looks_ahead(model):
    texts = [" ".join([f"w{index % 9}"] + ["w7" if index % 2 else "w8"] * 12) for index in range(300)]
    term = Weighted("sevens", Sevens())
    *told, (head, card) = fit_values(model, [term], texts, own=20, length=14, copies=3)
    assert (card.own, card.given, head.size, card.loss < card.chance) == (20, 300, 48, True)
    assert all(isinstance(step, Status) for step in told)
    (item,) = run(model, ["w5"], particles=8, look_ahead=Values([head]))
    assert item.ledger.reward_requests == 8
    (piloted,) = run(model, ["w5"], particles=4, look_ahead="value:fit")
    assert piloted.ledger.reward_requests > 400


def test_a_prompt_stays_and_no_padding_is_left(model):
    """The padding token is a state of the noise, but of no finished text, whatever the network wants."""
    template = model.template("w5 w6", 10)
    settings = model.resolve(Settings(particles=200, length=10, steps=4))
    process, noise = model.process(["w5 w6"], [template], settings, 64), Noise.of([1], 200)
    logits = model.denoiser.logits

    def biased(hidden):
        out = logits(hidden)
        out[..., 101] += 30
        return out

    object.__setattr__(model.denoiser, "logits", biased)
    state = process.init(noise)
    assert (state.ids == 101).any()
    for k in range(4):
        assert torch.equal(state.ids[:, :3], template[:3].expand(200, -1))
        assert bool((state.ids >= 0).all())
        x0, state = process.predict(state, k, noise, 2)
        assert not (x0 == 101).any()
        state = process.advance(state, k, k + 1, noise)
    assert not (state.ids == 101).any()


def test_a_batch_that_does_not_fit_is_halved(model, monkeypatch):
    expected, encode, sizes = run(model, ["w5"], particles=8)[0].texts, model.denoiser.encode, []

    def small(ids, t):
        sizes.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(ids, t)

    monkeypatch.setattr(model.denoiser, "encode", small)
    assert run(model, ["w5"], particles=8)[0].texts == expected
    assert sizes[:3] == [8, 4, 2]


def test_generate_in_python_raises_a_reward(folder):
    asked = {"samples": 12, "steps": 8, "length": 14}
    plain = fktext.generate(str(folder), Sevens(), "w5", method="base", **asked)
    steered = fktext.generate(str(folder), Sevens(), "w5", particles=8, lam=4.0, **asked)
    mean = [sum(Sevens().score([item.texts[item.draw()] for item in found])) for found in (plain, steered)]
    assert mean[0] < mean[1]


def test_the_command_line(folder):
    call = CliRunner(env={"NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}).invoke
    options = ["--model", str(folder), "--reward", "length:words=3", "--particles", "4", "--steps", "8", "--length", "14"]
    result = call(app, ["generate", "w5 w6", *options, "--format", "jsonl"])
    assert result.exit_code == 0, result.output
    (line,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert line["text"].startswith("w5 w6")
    refused = call(app, ["generate", "--template", "w5 {3} w6", *options])
    assert refused.exit_code == 2
    shown = call(app, ["models", "show", str(folder)])
    assert "uniform-ancestral" in shown.stdout


def test_resolved_settings_stay(model):
    asked = model.resolve(Settings(length=12))
    assert (asked.kernel, asked.steps, asked.stride) == ("uniform-ancestral", 128, None)
    assert model.resolve(replace(Settings(), **{name: getattr(asked, name) for name in ("length", "steps", "kernel")})) == asked
