"""The classifier reward and its preset, on tiny classifiers made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from fktext.errors import ModelError, UsageError
from fktext.plugins import load_plugins
from fktext.rewards import RewardContext
from fktext_plugins.classes import SENTIMENT, ClassReward

OFFLINE = RewardContext(offline=True, batch_size=2)
SENTIMENTS = ["negative", "neutral", "positive"]
TEXTS = ["good food", "bad", "", "the food was bad the food was good"]


def save(folder: Path, labels: list[str] | int, **more: Any) -> BertForSequenceClassification:
    """A tiny BERT with such labels, saved in a folder."""
    vocab = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "the", "food", "was", "good", "bad"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    names = {"num_labels": labels} if isinstance(labels, int) else {"id2label": dict(enumerate(labels))}
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocab),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.5,
        **names,
        **more,
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    return model


def logits(model: BertForSequenceClassification, folder: Path) -> torch.Tensor:
    """(M, L) one text at a time, straight through transformers."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = [tokenizer(text)["input_ids"] or [0] for text in TEXTS]
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows]).double()


def create(spec: str) -> ClassReward:
    reward = load_plugins().create(spec, OFFLINE).reward
    assert isinstance(reward, ClassReward)
    return reward


@pytest.mark.parametrize(("activation", "kind"), [("config", "single_label_classification"), ("softmax", None)])
def test_softmax(tmp_path: Path, activation: str, kind: str | None) -> None:
    model = save(tmp_path, SENTIMENTS, problem_type=kind)
    reward = create(f"classifier:model={tmp_path},label=Neutral,activation={activation}")
    torch.testing.assert_close(reward.score(TEXTS), logits(model, tmp_path).log_softmax(1)[:, 1], atol=1e-5, rtol=1e-5)
    assert reward.goal == f"towards neutral: log p(neutral) by {tmp_path}"
    assert reward.digest is not None


@pytest.mark.parametrize(("activation", "kind"), [("config", "multi_label_classification"), ("sigmoid", None)])
def test_sigmoid(tmp_path: Path, activation: str, kind: str | None) -> None:
    model = save(tmp_path, SENTIMENTS, problem_type=kind)
    reward = create(f"classifier:model={tmp_path},label=positive,activation={activation}")
    expected = torch.nn.functional.logsigmoid(logits(model, tmp_path)[:, 2])
    torch.testing.assert_close(reward.score(TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_labels_without_a_meaning_need_an_index(tmp_path: Path) -> None:
    model = save(tmp_path, 2)
    with pytest.raises(UsageError, match=r"'LABEL_1' .* does not say what it means: .* write label=1"):
        create(f"classifier:model={tmp_path},label=LABEL_1")
    with pytest.raises(UsageError, match=r"needs label=; .* has 0 \(LABEL_0\), 1 \(LABEL_1\)"):
        create(f"classifier:model={tmp_path}")
    values = create(f"classifier:model={tmp_path},label=1").score(TEXTS)
    torch.testing.assert_close(values, logits(model, tmp_path).log_softmax(1)[:, 1], atol=1e-5, rtol=1e-5)


def test_wrong_labels(tmp_path: Path) -> None:
    save(tmp_path, SENTIMENTS)
    for label, message in (("positiv", "did you mean 'positive'"), ("3", "unknown label"), ("-1", "unknown label")):
        with pytest.raises(UsageError, match=message):
            create(f"classifier:model={tmp_path},label={label},activation=softmax")
    with pytest.raises(ModelError, match=r"does not say whether they exclude each other: .*activation=softmax"):
        create(f"classifier:model={tmp_path},label=positive")


def test_softmax_over_one_label(tmp_path: Path) -> None:
    save(tmp_path, ["rude"], problem_type="multi_label_classification")
    with pytest.raises(ModelError, match="a softmax over it is always 1"):
        create(f"classifier:model={tmp_path},label=rude,activation=softmax")


def test_sentiment(tmp_path: Path) -> None:
    model = save(tmp_path, SENTIMENTS)
    expected = logits(model, tmp_path).log_softmax(1)
    for index, label in enumerate(SENTIMENTS):
        values = create(f"sentiment:model={tmp_path},label={label}").score(TEXTS)
        torch.testing.assert_close(values, expected[:, index], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(create(f"sentiment:model={tmp_path}").score(TEXTS), expected[:, 2], atol=1e-5, rtol=1e-5)


def test_sentiment_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=f"cannot load the sequence classifier '{SENTIMENT}' .the run is offline: only folders"):
        create("sentiment")
