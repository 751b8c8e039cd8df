"""The cola reward: tiny classifiers made here, and the two embedded judges."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

import tiny
from fktext.errors import ModelError, UsageError
from fktext.files.weights import quantised
from fktext.plugins import load_plugins
from fktext.rewards import LogProbability, Reward, RewardContext
from fktext.testing import RewardConformance
from fktext_plugins.classifiers import Classifier
from fktext_plugins.cola import EMBEDDED, EMPTY, KNOWN, acceptable_index, cola

OFFLINE = RewardContext(offline=True, batch_size=4)
TEXTS = ["good food", "bad", "the food was bad the food was good"]
PAIRS = [  # well-formed, and not
    ("She was reading a book in the garden.", "She was reading the in a garden book."),
    ("The children are playing outside.", "The children is playing outside."),
    ("He went to the store to buy some milk.", "He went to the to store buy some milk."),
    ("I have never seen such a big dog.", "I have never saw such a big dog."),
    ("They told us that the train was late.", "They told us that the was late train."),
    ("It was raining when we left the house.", "It was raining when we left of the of house."),
    ("My brother wants to become a doctor.", "My brother want to becoming a doctor."),
    ("The old man sat down and told a story.", "The old man sat and down told and a."),
]


def logits(model: BertForSequenceClassification, folder: Path) -> torch.Tensor:
    """(M, 2) of TEXTS, one at a time, straight through transformers."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits for text in TEXTS]).double()


def create(spec: str) -> LogProbability:
    reward = load_plugins().create(spec, OFFLINE).reward
    assert isinstance(reward, LogProbability)
    return reward


@functools.cache
def judge(model: str) -> LogProbability:
    return cola(OFFLINE, model=model)


class TestEmbedded(RewardConformance):
    imports = ("fktext_plugins.builtin", "fktext_plugins.cola", "fktext_plugins.convolutional")

    @pytest.fixture(params=EMBEDDED)
    def factory(self, request: pytest.FixtureRequest) -> Callable[[RewardContext], Reward]:
        return functools.partial(cola, model=request.param)


@pytest.mark.parametrize("index", [0, 1])
def test_log_softmax_of_a_class_named_by_its_index(tmp_path: Path, index: int) -> None:
    model = tiny.classifier(tmp_path, 2)
    values = create(f"cola:model={tmp_path},label={index}").score(["", *TEXTS])
    torch.testing.assert_close(values[1:], logits(model, tmp_path).log_softmax(1)[:, index], atol=1e-5, rtol=1e-5)
    assert values[0] == EMPTY


def test_where_p_is_near_one_no_digit_is_lost() -> None:
    class Sure:
        label = "acceptable"

        def log_odds(self, texts: list[str]) -> torch.Tensor:
            return torch.tensor([50.0, -800.0], dtype=torch.float64)

    values = LogProbability(Sure(), "sure", "goal").score(["a", "b"])
    assert values[0] < 0  # log(p) of p rounded to 1 would be 0
    assert values[1] == -800


def test_a_class_named_acceptable_needs_no_label(tmp_path: Path) -> None:
    model = tiny.classifier(tmp_path, ["Acceptable", "unacceptable"])
    values = create(f"cola:model={tmp_path}").score(TEXTS)
    torch.testing.assert_close(values, logits(model, tmp_path).log_softmax(1)[:, 0], atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match=r"did you mean 'unacceptable'.*Known: 0, 1, Acceptable, unacceptable"):
        create(f"cola:model={tmp_path},label=aceptable")


def test_bare_labels_are_refused(tmp_path: Path) -> None:
    tiny.classifier(tmp_path, 2)
    with pytest.raises(UsageError, match=rf"LABEL_0, LABEL_1: none says .* write cola:model={tmp_path},label=1"):
        create(f"cola:model={tmp_path}")


def test_a_published_model_is_known_by_its_name() -> None:
    assert [acceptable_index(name, ["LABEL_0", "LABEL_1"], None) for name in KNOWN] == [1]
    assert acceptable_index("textattack/roberta-base-CoLA", ["LABEL_0", "LABEL_1"], "0") == 0
    assert acceptable_index("textattack/roberta-base-CoLA", ["acceptable", "unacceptable"], None) == 0
    with pytest.raises(UsageError, match="none says"):
        acceptable_index("textattack/roberta-base-CoLA", ["wrong", "right"], None)


def test_models_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"'textattack/roberta-base-CoLA' .the run is offline"):
        create("cola:model=textattack/roberta-base-CoLA")
    with pytest.raises(UsageError, match="did you mean 'tiny-cola'"):
        create("cola:model=tiny-kola")


def test_int8_weights(tmp_path: Path) -> None:
    model = tiny.classifier(tmp_path, ["unacceptable", "acceptable"])
    expected = create(f"cola:model={tmp_path}").score(TEXTS)
    before = create(f"cola:model={tmp_path}").digest
    save_file(quantised(model.state_dict()), tmp_path / "model.safetensors", metadata={"format": "pt"})
    reward = create(f"cola:model={tmp_path}")
    torch.testing.assert_close(reward.score(TEXTS), expected, atol=0.05, rtol=0.05)
    assert reward.digest not in (None, before)


@pytest.mark.parametrize("model", EMBEDDED)
def test_white_space_is_no_sentence(model: str) -> None:
    values = judge(model).score(["", " \n\t", "It works.", ""])
    assert values[[0, 1, 3]].tolist() == [EMPTY] * 3
    assert values[2] == judge(model).score(["It works."])[0] > EMPTY


@pytest.mark.parametrize("model", EMBEDDED)
def test_the_embedded_judges_tell_sentences_from_word_salad(model: str) -> None:
    good, bad = (judge(model).score(list(texts)) for texts in zip(*PAIRS, strict=True))
    assert (good > bad).all(), [pair for pair, right in zip(PAIRS, good > bad, strict=True) if not right]
    assert (good - bad).mean() > 1


@pytest.mark.parametrize("model", EMBEDDED)
def test_case_and_spaces_around_marks_do_not_matter(model: str) -> None:
    values = judge(model).score(["He didn't come, though.", "he didn't come , though ."])
    torch.testing.assert_close(values[0], values[1])


def test_provenance() -> None:
    assert create("cola").goal == "towards well-formed English: log p(acceptable) by tiny-cola"
    digests = {judge(model).digest for model in EMBEDDED}
    assert len(digests) == 2
    assert all(digest is not None and len(digest) == 16 for digest in digests)


@pytest.mark.parametrize("spec", ["cola", "toxicity", "toxicity:target=nontoxic"])
def test_embedded_tokens_are_worth_what_the_text_is(spec: str) -> None:
    reward, texts = create(spec), ["the dog sat down.", "dog the the down"]
    assert isinstance(reward.judge, Classifier)
    gradient = reward.gradient
    assert gradient is not None
    rows = [reward.judge.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    present = torch.zeros(2, 9, dtype=torch.bool)
    embedded = torch.randn(2, 9, gradient.embeddings.shape[1])
    for index, row in enumerate(rows):
        present[index, 2 : 2 + len(row)] = True
        embedded[index, present[index]] = gradient.embeddings[row].detach()
    embedded.requires_grad_()
    value = gradient.value(embedded, present)
    torch.testing.assert_close(value.double(), reward.score(texts), atol=1e-5, rtol=1e-5)
    [slope] = torch.autograd.grad(value.sum(), embedded)
    assert torch.equal(slope.abs().sum(-1) > 0, present)
