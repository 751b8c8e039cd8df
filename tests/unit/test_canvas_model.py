"""DiffusionGemma from a folder to steered texts: canvases, ends, chat, batches, the command line, and files that are wrong."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import fktext
import tiny
from fktext.errors import ModelError, UsageError
from fktext.models import load
from fktext.rewards import Weighted
from fktext.settings import Settings
from fktext.smc.noise import Noise
from fktext.texts.generate import Population, generate
from fktext.texts.templates import Template
from fktext.uniform import gemma
from fktext_cli import app

PROMPTS = ["w5", "w5 w6 w7 w8 w9", "w10 w11"]
TURNS = (
    "{{ bos_token }}{% for m in messages %}w90 {{ m['role'] }} {{ m['content'] }} <turn|> {% endfor %}"
    "{% if add_generation_prompt %}w90 assistant {% endif %}"
)


class Sevens:
    """How many words have a 7."""

    def score(self, samples):
        return [float(sum("7" in word for word in sample.split())) for sample in samples]


@pytest.fixture
def folder(tmp_path):
    return tiny.golden("diffusiongemma", tmp_path / "gemma")


@pytest.fixture
def model(folder):
    return load(str(folder))


def run(model, prompts, batch_size=None, **settings):
    asked = Settings(**{"particles": 3, "length": 14, "steps": 3, "resample_every": 1, "lam": 2.0, **settings})
    found = generate(model, [Weighted("sevens", Sevens())], prompts, asked, batch_size=batch_size)
    return [item for item in found if isinstance(item, Population)]


def test_what_a_folder_says(model):
    assert (model.family, model.kernels, model.denoiser.canvas) == ("diffusiongemma", ("uniform-ancestral", "entropy-bound"), 8)
    assert (model.bos_id, model.end_id, model.pad_id, model.ends) == (2, 1, 0, (1,))
    asked = model.resolve(Settings())
    assert (asked.length, asked.steps, asked.temperature) == (8, 48, 1.0)
    assert [model.num_steps(model.template(prompt, 14), asked) for prompt in PROMPTS] == [96, 48, 96]


def test_company_and_batches_do_not_matter(model):
    """Prompts of several lengths, two canvases, the second of which is cut."""
    together = run(model, PROMPTS, length=15)
    assert any(bool(step.resampled) for item in together for step in item.steps)
    for prompt, item in zip(PROMPTS, together, strict=True):
        (alone,) = run(model, [prompt], batch_size=2, length=15)
        assert alone.texts == item.texts
        assert {text.prompt for text in item.texts} == {prompt}
        assert all(len(text.split()) <= 14 for text in item.texts)
        torch.testing.assert_close(alone.log_w, item.log_w)


@pytest.mark.parametrize("method", ["fk", "best-of-n", "base", "svdd", "beam", "particle-gibbs"])
def test_methods(model, method):
    selects = {"candidates": 2} if method in ("svdd", "beam") else {"sweeps": 2} if method == "particle-gibbs" else {}
    found = run(model, ["w5"], particles=4, length=10, method=method, **selects)
    assert all(text.startswith("w5") for item in found for text in item.texts)
    if (
        method == "best-of-n"
    ):  # nothing is copied and no two states are equal: a row for every step of every particle, and the prompt
        assert found[0].ledger.denoiser_rows == 4 * 3 + 1


def test_the_published_decoder_writes_and_chooses(model):
    found = [run(model, ["w5"], kernel="entropy-bound", method=method)[0] for method in ("base", "best-of-n")]
    assert [len(item.texts) for item in found] == [1, 3]
    assert found[1].texts[0] == found[0].texts[0]


def test_any_of_several_tokens_ends_a_text(folder):
    tiny.edit(folder / "config.json", eos_token_id=[1, 3])
    tiny.edit(folder / "generation_config.json", eos_token_id=[1, 50])
    model = load(str(folder))
    assert model.ends == (1, 3, 50)
    rows = torch.tensor([[2, 5, 6, 50, 7, 7], [2, 5, 3, 6, 7, 7], [2, 5, 6, 7, -1, -1], [2, 5, 6, 7, 8, 9]])
    assert [str(text) for text in model.decode(rows, "w5")] == ["w5 w6", "w5", "w5 w6 w7", "w5 w6 w7 w8 w9"]
    template, settings = model.template("w5", 20), model.resolve(Settings(particles=60, length=20, steps=1))
    process, noise = model.process(["w5"], [template], settings, 64), Noise.of([0], 60)
    state = process.advance(process.init(noise), 0, process.num_steps, noise)
    ended = torch.isin(state.text[:, 2:10], torch.tensor([1, 3, 50])).any(1)
    assert 0 < int(ended.sum()) < 60
    assert torch.equal((state.text[:, 10:18] == -1).all(1), ended)


def test_a_chat_asks_and_answers(folder):
    """The prompt is the conversation, its tokens may end other turns, and an answer stops at the end of its own."""
    (folder / "chat_template.jinja").write_text(TURNS)
    words = [*(f"w{index}" for index in range(94)), "user", "assistant"]
    words[:4] = ["<pad>", "<eos>", "<bos>", "<turn|>"]
    tiny.word_level(words, special=words[:4]).save(str(folder / "tokenizer.json"))
    tiny.edit(folder / "generation_config.json", eos_token_id=[1, 3])
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<bos>"}))
    model = load(str(folder), chat=True)
    start = model.start("w5 w6")
    assert start.ids == (2, 90, 94, 5, 6, 3, 90, 95)
    assert model.chat.closing_id == 3
    rows = torch.tensor([[*start.ids, 7, 8, 3, 9], [*start.ids, 7, 1, 3, 9], [*start.ids, 7, 8, 9, -1]])
    assert [str(text) for text in model.decode(rows, "w5 w6")] == ["w7 w8", "w7", "w7 w8 w9"]
    (item,) = run(model, ["w5 w6"], length=20)
    assert all(text.prompt == "" and "w90" not in text.split()[:1] for text in item.texts)


def test_a_batch_that_does_not_fit_is_halved(model, monkeypatch):
    expected, encode, sizes = run(model, ["w5"], particles=8)[0].texts, model.denoiser.encode, []

    def small(canvas, *others):
        sizes.append(len(canvas))
        if len(canvas) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(canvas, *others)

    monkeypatch.setattr(model.denoiser, "encode", small)
    assert run(model, ["w5"], particles=8)[0].texts == expected
    assert sizes[:3] == [8, 4, 2]


def test_half_precision(folder):
    model = load(str(folder), dtype="bfloat16")
    assert model.denoiser.dtype == torch.bfloat16
    assert model.denoiser.model.model.decoder.rotary_emb.full_attention_inv_freq.dtype == torch.float32
    (item,) = run(model, ["w5"])
    assert len(item.texts) == 3


def test_accelerate_places_it(folder):
    """With one place to put it, texts are the same."""
    spread = load(str(folder), device_map="auto")
    assert spread.denoiser.main is not None
    assert spread.denoiser.to("meta") is spread.denoiser
    assert run(spread, ["w5"])[0].texts == run(load(str(folder)), ["w5"])[0].texts


def test_generate_in_python_raises_a_reward(folder):
    asked = {"samples": 6, "steps": 4, "length": 9}
    plain = fktext.generate(str(folder), Sevens(), "w5", method="base", **asked)
    steered = fktext.generate(str(folder), Sevens(), "w5", particles=6, lam=4.0, **asked)
    mean = [sum(Sevens().score([item.texts[item.draw()] for item in found])) for found in (plain, steered)]
    assert mean[0] < mean[1]


def test_the_command_line(folder):
    call = CliRunner(env={"NO_COLOR": "1", "HF_HUB_OFFLINE": "1"}).invoke
    options = ["--model", str(folder), "--reward", "length:words=3", "--particles", "2", "--steps", "2", "--length", "9"]
    result = call(app, ["generate", "w5 w6", *options, "--format", "jsonl"])
    assert result.exit_code == 0, result.output
    (line,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert line["text"].startswith("w5 w6")
    shown = call(app, ["models", "show", str(folder)])
    assert "diffusiongemma" in shown.stdout
    checked = call(app, ["models", "check", str(folder)])
    assert checked.exit_code == 0, checked.output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": "ancestral"}, "unknown kernel of model .*: 'ancestral'"),
        ({"stride": 4}, "writes 8 tokens at a time: a stride is for masked models"),
        ({"kernel": "entropy-bound"}, "cannot be steered by method 'fk': which tokens stay depends on how sure the network is"),
        ({"kernel": "entropy-bound", "method": "base", "temperature": 0.0}, "temperature 0 leaves kernel 'entropy-bound' nothing"),
        ({"temperature": 0.0}, "temperature 0 leaves kernel 'uniform-ancestral' nothing to draw"),
        ({"proposal": "guided", "look_ahead": "value:fit"}, "proposal 'guided' goes with kernels that reveal"),
    ],
)
def test_what_it_cannot_do_is_refused(model, settings, message):
    with pytest.raises(UsageError, match=message):
        model.resolve(Settings(**settings))


def test_lengths_and_templates_are_refused(model):
    with pytest.raises(
        UsageError, match=r"length 256 after a prompt of 2 tokens takes 258 tokens in canvases of 8, but .* takes 256"
    ):
        model.template("w5", 256)
    assert len(model.template("w5", 250)) == 250
    with pytest.raises(UsageError, match="cannot fill a template"):
        model.start(Template("w1 {3} w2"))
    with pytest.raises(UsageError, match="that is for masked models"):
        model.compiled()


def cut(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def without(name):
    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        del tensors[name]
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return change


def setting(**changes):
    return lambda folder: tiny.edit(folder / "config.json", **changes)


def text_setting(**changes):
    def change(folder):
        text = json.loads((folder / "config.json").read_text())["text_config"]
        tiny.edit(folder / "config.json", text_config=text | changes)

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "model.safetensors"),
        (without("model.decoder.layers.1.self_attn.q_norm.weight"), "lacks weights of .*layers.1.self_attn.q_norm.weight"),
        (text_setting(vocab_size=97), "contradicts itself: .* has shape .96, 32., config.json asks for .97, 32."),
        (text_setting(num_experts=8), "contradicts itself: .*experts"),
        (text_setting(hidden_size="32"), "cannot be loaded as a DiffusionGemma"),
        (setting(text_config=None), "has no text_config"),
        (setting(canvas_length=0), "canvas_length 0"),
        (setting(eos_token_id="<eos>"), "has eos_token_id .*expected ids of tokens"),
        (
            lambda folder: tiny.numbered(80, ["<eos>"], 79).save(str(folder / "tokenizer.json")),
            "the tokenizer has 80 tokens, which contradicts the network's vocabulary of 96",
        ),
    ],
)
def test_wrong_files_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(ModelError, match=message) as error:
        load(str(folder))
    assert "\n" not in str(error.value)


def test_an_old_transformers_is_told(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="5.0.0"))
    with pytest.raises(ModelError, match=r"which transformers 5\.0\.0 does not know: install a later one"):
        gemma.load(folder, torch.float32, torch.device("cpu"))
