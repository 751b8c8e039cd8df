"""`fktext.texts.generate` over every family: prompts of different lengths, texts longer than the model, texts that end."""

import json
from pathlib import Path

import pytest
import torch

import tiny
from fktext.errors import FktextError, UsageError
from fktext.models import load
from fktext.population import Member
from fktext.rewards import Weighted
from fktext.settings import Settings
from fktext.smc.ledger import Ledger
from fktext.smc.noise import population_key
from fktext.text import Text
from fktext.texts.generate import Population, generate
from fktext.texts.templates import Template

GOLDEN = Path(__file__).parents[1] / "parity" / "golden"
SPECIAL = {"<pad>": 0, "<end>": 1, "<start>": 2, "<mask>": 3}
SECTION = {"bos_token": "<start>", "end_token": "<end>", "pad_token": "<pad>"}


def golden(family: str, size: int):
    return lambda folder: tiny.golden(family, folder, tiny.numbered(size, list(SPECIAL)))


def bert(folder: Path) -> None:
    tiny.masked_lm(folder, tiny.numbered(60, list(SPECIAL)), initializer_range=0.5)
    (folder / "tokenizer_config.json").write_text(json.dumps({"mask_token": "<mask>"}))


FAMILIES = {
    "dit": golden("dit", 100),
    "sedd": golden("sedd", 60),
    "mlm": bert,
    "llada": golden("llada", 63),
    "dream": golden("dream", 62),
    "ssdlm": golden("ssdlm", 97),
}
MASKED = [family for family in FAMILIES if family != "ssdlm"]


@pytest.fixture
def folder(request, tmp_path):
    family = request.param
    FAMILIES[family](tmp_path / family)
    config = json.loads((tmp_path / family / "config.json").read_text())
    architecture = {"architectures": ["BertForMaskedLM"]} if family == "mlm" else {}
    (tmp_path / family / "config.json").write_text(json.dumps(config | architecture | {"fktext": SECTION}))
    return tmp_path / family


class Sevens:
    """How many words have a 7; 0 for no text."""

    def score(self, samples):
        return [float(sum("7" in word for word in sample.split())) for sample in samples]


def run(model, prompts, **settings):
    settings = {"particles": 4, "length": 20, "steps": 6, "resample_every": 2, "lam": 2.0, "ess_threshold": 0.9, **settings}
    found = generate(model, [Weighted("sevens", Sevens())], prompts, Settings(**settings))
    return [item for item in found if isinstance(item, Population)]


def test_a_text_is_drawn_in_proportion_to_its_weight():
    draws, log_w = 4000, torch.tensor([0.0, -1.0, -2.5, -torch.inf], dtype=torch.float64).log_softmax(0)
    values = torch.zeros(4, 1, dtype=torch.float64)
    counts = torch.zeros(4, dtype=torch.float64)
    for index in range(draws):
        key = population_key(0, "draw", index)
        texts = [Text(name) for name in "abcd"]
        member = Member(0, index, key, "")
        population = Population(member, texts, ("r",), values, values[:, 0], log_w, 0.0, torch.arange(4), (), Ledger())
        counts[population.draw()] += 1
    share = log_w.exp()
    assert counts[3] == 0
    assert ((counts / draws - share).abs() <= 4 * (share * (1 - share) / draws).sqrt()).all()


PROMPTS = ["w5", "w5 w6 w7 w8 w9", "w10 w11", ""]


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_a_prompt_is_encoded_once(folder, monkeypatch):
    model, encoded = load(str(folder)), []
    encode = type(model)._ids
    monkeypatch.setattr(type(model), "_ids", lambda self, text, where: encoded.append(text) or encode(self, text, where))
    found = run(model, ["w5", "w6 w7"], samples=2, steps=12, resample_every=2)
    assert len(found[0].steps) >= 6  # weighings, at each of which all texts are decoded
    assert [text.strip() for text in encoded] == ["w5", "w6 w7"]


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_prompts_of_different_lengths_in_one_batch_equal_one_at_a_time(folder):
    model = load(str(folder))
    together = run(model, PROMPTS)
    assert any(step.resampled for item in together for step in item.steps)
    for prompt, item in zip(PROMPTS, together, strict=True):
        (alone,) = run(model, [prompt])
        assert alone.texts == item.texts
        assert [text.prompt for text in alone.texts] == [prompt] * 4
        torch.testing.assert_close(alone.log_w, item.log_w)
        assert torch.equal(alone.roots, item.roots)
        assert alone.log_z == pytest.approx(item.log_z)


@pytest.mark.parametrize("folder", MASKED, indirect=True)
def test_texts_longer_than_the_model(folder):
    """Also with a prompt that fills more than the first window, in one batch with others."""
    model = load(str(folder))
    size = model.denoiser.max_length
    object.__setattr__(model, "end_id", None)  # so that random texts do not end at once
    object.__setattr__(model, "pad_id", None)
    long = " ".join(f"w{4 + index % 40}" for index in range(size + 2))
    settings = {"length": 2 * size, "particles": 3}
    prompts = ["w5", long, "w5 w6 w7", "w8"]
    together = run(model, prompts, **settings)
    spelled = model.resolve(Settings(length=2 * size))
    assert spelled.stride == size // 2
    assert model.resolve(Settings(**vars(spelled))) == spelled
    for prompt, item in zip(prompts, together, strict=True):
        (alone,) = run(model, [prompt], **settings)
        assert alone.texts == item.texts
        torch.testing.assert_close(alone.log_w, item.log_w)
        assert {text.prompt for text in item.texts} == {prompt}
        dropped = int(model.bos_id is not None)
        assert all(
            size < len(text.split()) <= 2 * size - dropped for text in item.texts
        )  # special tokens may be drawn, and are dropped
    assert len(together[0].steps) > len(together[1].steps) > 3  # the long prompt needs fewer windows, but more than one
    (narrow,) = run(model, ["w5"], **settings, stride=size - 3)
    assert narrow.texts != together[0].texts


@pytest.mark.parametrize("folder", ["mlm"], indirect=True)
def test_strides_that_make_no_sense(folder):
    model = load(str(folder))
    for changes, message in (
        ({"length": 24, "stride": 4}, r"stride 4 has no use: length 24 fits into the 24 tokens"),
        ({"length": 25, "stride": 23}, r"stride 23 is out of range: model .* takes strides of 1 to 22 tokens"),
        ({"length": 25, "stride": 0}, r"stride must be at least 1, got 0"),
    ):
        with pytest.raises(UsageError, match=message):
            run(model, ["w5"], **changes)


@pytest.mark.parametrize("folder", ["ssdlm"], indirect=True)
def test_what_ssdlm_refuses(folder):
    model = load(str(folder))
    with pytest.raises(UsageError, match=r"cannot fill a template: it writes from left to right"):
        run(model, [Template("w5 {3} w6")])
    with pytest.raises(UsageError, match=r"writes by blocks of 25 tokens: a stride is for masked models"):
        run(model, ["w5"], stride=5)
    with pytest.raises(UsageError, match=r"length 1000 is more than the 80 tokens"):
        run(model, ["w5"], length=1000)


@pytest.mark.parametrize("folder", MASKED, indirect=True)
def test_templates(folder):
    model = load(str(folder))
    for item in run(model, [Template("w5 {4} w6 w7 {1} w8")]):
        for text in item.texts:
            words = text.split()
            assert (words[0], words[-1]) == ("w5", "w8")
            assert "w6 w7" in text


class Recorded(Sevens):
    """Remembers what it was shown."""

    def __init__(self):
        self.seen = []

    def score(self, samples):
        self.seen += samples
        return super().score(samples)


@pytest.mark.parametrize("folder", FAMILIES, indirect=True)
def test_texts_are_scored_and_returned_up_to_their_end(folder):
    """The network wants ends and padding and one word; an empty text is a text, with a reward like any other."""
    model = load(str(folder))
    assert (model.end_id, model.pad_id) == (1, 0)
    logits = model.denoiser.logits

    def biased(hidden):
        out = logits(hidden)
        out[..., [0, 1, 7, 20]] += 30
        return out

    object.__setattr__(model.denoiser, "logits", biased)
    reward = Recorded()
    settings = Settings(particles=6, samples=3, length=12, steps=6, resample_every=2, lam=1.0)
    prompt = "w7 <end> w9"  # an end in the prompt ends nothing
    found = [item for item in generate(model, [Weighted("r", reward)], [prompt], settings) if isinstance(item, Population)]
    texts = [text for item in found for text in item.texts]
    everything = {*texts, *reward.seen}
    assert {text.prompt for text in everything} == {"w7 w9"}
    assert all(word not in text for text in everything for word in SPECIAL)
    assert all(len(text.split()) >= 2 for text in everything)
    assert min(len(text.split()) for text in everything) == 2  # nothing but the prompt
    assert max(len(text.split()) for text in everything) > 2
    for item in found:
        for text, value in zip(item.texts, item.rewards.tolist(), strict=True):
            assert value == Sevens().score([text])[0]
    empty = run(model, [""], samples=12, length=6)
    assert "" in [text for item in empty for text in item.texts]
    assert all(item.log_w.isfinite().all() for item in empty)


@pytest.mark.parametrize("folder", MASKED[:1], indirect=True)
def test_memory_that_holds_not_even_one_row_is_an_error_that_says_what_helps(folder, monkeypatch):
    model = load(str(folder))

    def full(ids, t):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model.denoiser, "encode", full)
    with pytest.raises(FktextError, match="does not hold 8 particles at once: give a smaller batch size or a shorter length"):
        run(model, ["w5", "w6"])
