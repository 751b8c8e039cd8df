"""The toxicity reward: real Detoxify on tiny checkpoints made here, and the two embedded judges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer, pre_tokenizers
from torch.nn.functional import logsigmoid
from transformers import (
    BertConfig,
    BertForSequenceClassification,
)

import tiny
from fktext import embedded
from fktext.errors import ModelError, UsageError
from fktext.plugins import load_plugins
from fktext.rewards import LogProbability, RewardContext, Scorer, Weighted
from fktext_plugins.classifiers import Classifier, load_detoxify
from fktext_plugins.ngram import Features
from fktext_plugins.toxicity import toxicity

OFFLINE = RewardContext(offline=True, batch_size=4)
CLASSES = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]  # as released checkpoints spell them
WORDS = ["the", "a", "you", "are", "stupid", "idiot", "nice", "friend", "movie", "food", "hello", "world", "and", "is"]
LONG = "hello world hello world the movie is nice and the food is nice"
TEXTS = ["you are nice", "a stupid idiot", LONG, "", "friend", "the " * 200]
ODD = ["\x00", "\u200b\u202e", "🤡🤡", "é́́́", "ﷺ" * 50, "\uff01\uff1f", " \n\t ", "中文", "\ufffd", "a" * 5000]


def bert(folder: Path, labels: dict[int, str], **more: Any) -> dict[str, torch.Tensor]:
    """A tiny BERT's configuration and tokenizer in `folder`; returns the weights of the model."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = tiny.word_piece(special + WORDS, (), ("[CLS]", "[SEP]"))
    roles = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    tiny.save_fast(tokenizer, folder, **roles)  # model_max_length stays unknown
    settings = json.loads((folder / "tokenizer_config.json").read_text()) | {"tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    sizes = {"vocab_size": len(special + WORDS), "max_position_embeddings": 32, "initializer_range": 0.5}  # far apart logits
    model = tiny.network("BertForSequenceClassification", **sizes, id2label=labels, **more)
    model.config.save_pretrained(folder)
    return model.state_dict()


def roberta(folder: Path, classes: int) -> dict[str, torch.Tensor]:
    """The same, RoBERTa: byte-level tokens, positions that start after the padding index."""
    vocab = {
        token: i
        for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(pre_tokenizers.ByteLevel.alphabet())])
    }
    ByteLevelBPETokenizer(vocab, []).save_model(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "RobertaTokenizer"}))
    sizes = {"vocab_size": len(vocab), "max_position_embeddings": 34, "type_vocab_size": 1, "initializer_range": 0.5}  # 32 tokens
    model = tiny.network("RobertaForSequenceClassification", **sizes, num_labels=classes)
    model.config.save_pretrained(folder)
    return model.state_dict()


def save(path: Path, weights: dict[str, torch.Tensor], model_type: str, family: str = "Bert", classes: list[str] = CLASSES) -> Path:
    """A checkpoint in detoxify's format."""
    arch = {
        "num_classes": len(classes),
        "model_type": model_type,
        "model_name": f"{family}ForSequenceClassification",
        "tokenizer_name": f"{family}Tokenizer",
    }
    torch.save({"config": {"arch": {"args": arch}, "dataset": {"args": {"classes": classes}}}, "state_dict": weights}, path)
    return path


@pytest.fixture
def bert_checkpoint(tmp_path: Path) -> Path:
    # The hub id inside is what a released checkpoint has; the folder around the file must win, offline.
    return save(tmp_path / "toxic.ckpt", bert(tmp_path, dict(enumerate(CLASSES))), "bert-base-uncased")


@pytest.fixture
def roberta_checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "toxic.ckpt", roberta(tmp_path, 6), "roberta-base", "Roberta")


@pytest.fixture(params=["bert_checkpoint", "roberta_checkpoint"])
def checkpoint(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_agrees_with_detoxify_itself(checkpoint: Path) -> None:
    """Same weights, same tokens: `Detoxify.predict` on the texts that fit, by detoxify's own loading."""
    from detoxify import Detoxify

    content = torch.load(checkpoint, weights_only=True)
    content["config"]["arch"]["args"]["model_type"] = str(checkpoint.parent)
    torch.save(content, checkpoint.parent / "local.pt")
    texts = ["you are nice", "a stupid idiot", "", "friend"]
    expected = Detoxify(checkpoint=str(checkpoint.parent / "local.pt")).predict(texts)
    for label in ("toxicity", "identity_attack"):  # detoxify's names of toxic and identity_hate
        scores = toxicity(OFFLINE, model=str(checkpoint), label=label).score(texts).exp()
        torch.testing.assert_close(scores, torch.tensor(expected[label], dtype=torch.float64), rtol=1e-5, atol=1e-6)
    assert (torch.tensor(expected["toxicity"]).diff().abs() > 1e-3).all()  # else agreement would mean nothing


def test_folder_and_half_precision(bert_checkpoint: Path) -> None:
    """A folder is its one checkpoint; half-precision files run in float32."""
    full = toxicity(OFFLINE, model=str(bert_checkpoint.parent))
    content = torch.load(bert_checkpoint, weights_only=True)
    detox = load_detoxify(
        content | {"state_dict": {name: value.half() for name, value in content["state_dict"].items()}}, str(bert_checkpoint.parent)
    )
    assert {value.dtype for value in detox.model.state_dict().values() if value.is_floating_point()} == {torch.float32}
    half = Classifier(detox.model, detox.tokenizer, "toxicity", 0, False, 4)
    torch.testing.assert_close(half.log_odds(TEXTS), full.judge.log_odds(TEXTS), rtol=0.02, atol=0.02)
    save(bert_checkpoint.parent / "second.ckpt", content["state_dict"], "bert-base-uncased")
    with pytest.raises(UsageError, match="2 checkpoints"):
        toxicity(OFFLINE, model=str(bert_checkpoint.parent))


def test_batches_order_and_length(checkpoint: Path) -> None:
    """One by one, together, or in another order: the same values; long texts are cut to the model's own 32 tokens."""
    reward = toxicity(OFFLINE, model=str(checkpoint))
    together = reward.score(TEXTS)
    assert together.dtype == torch.float64
    torch.testing.assert_close(together, torch.cat([reward.score([text]) for text in TEXTS]), rtol=1e-5, atol=1e-6)
    order = [5, 2, 0, 3, 1, 4]
    assert torch.equal(reward.score([TEXTS[index] for index in order]), together[order])
    judge = reward.judge
    assert isinstance(judge, Classifier)
    assert judge.longest == 32
    first_tokens = "the " * 30 if judge.model.config.model_type == "bert" else "the " * 7 + "th"
    assert len(judge.tokenizer(first_tokens)["input_ids"]) == 32
    torch.testing.assert_close(together[5:], reward.score([first_tokens]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["tiny-toxicity", "heldout-toxicity"])
def test_embedded_judges(model: str) -> None:
    """Rude above kind, by a wide margin; both directions; odd texts are finite."""
    rude = ["you are a stupid idiot.", "shut up, you stupid idiot!", "what a pathetic loser you are."]
    kind = [
        "thank you for your help.",
        "the cat sat on the mat.",
        "you are a good friend.",
        "i went to the market to buy some apples.",
    ]
    reward = toxicity(OFFLINE, model=model)
    low, high = reward.score(kind).exp(), reward.score(rude).exp()
    assert low.max() < 0.2 < 0.6 < high.min()
    away = toxicity(OFFLINE, model=model, target="nontoxic").score(kind + rude)
    torch.testing.assert_close(away.exp(), 1 - torch.cat([low, high]))
    values = reward.score(["", *ODD])
    assert values.isfinite().all()
    assert (values <= 0).all()
    assert values[0] < -1  # nothing is not toxic
    torch.testing.assert_close(values, torch.cat([reward.score([text]) for text in ["", *ODD]]), rtol=1e-5, atol=1e-6)


def test_odd_texts(checkpoint: Path) -> None:
    assert toxicity(OFFLINE, model=str(checkpoint)).score(["", *ODD]).isfinite().all()


class Fixed:
    """A judge that has made up its mind."""

    label = "toxicity"

    def __init__(self, *z: float) -> None:
        self.z = torch.tensor(z, dtype=torch.float64)

    def log_odds(self, texts: Any) -> torch.Tensor:
        return self.z


def test_log_probabilities_at_extreme_logits() -> None:
    """log p(not toxic) at z = 200 is -200; log(1 - sigmoid(200)) would be -inf, and -0 at z = -200 keeps its digits."""
    z = (200.0, -200.0, 40.0)
    assert torch.log(1 - torch.tensor(z[0]).double().sigmoid()) == -torch.inf
    away = LogProbability(Fixed(*z), "fixed", "goal", opposite=True).score(["", "", ""])
    assert away.tolist() == pytest.approx([-200, -1.383896526736737e-87, -40], rel=1e-12)
    towards = LogProbability(Fixed(*z), "fixed", "goal").score(["", "", ""])
    assert towards.tolist() == pytest.approx([-1.383896526736737e-87, -200, -4.248354255291589e-18], rel=1e-12)


def test_goal() -> None:
    assert toxicity(OFFLINE).goal == "towards toxic text: log p(toxicity) by tiny-toxicity"
    away = toxicity(OFFLINE, model="heldout-toxicity", target="nontoxic")
    assert away.goal == "away from toxic text: log p(not toxicity) by heldout-toxicity"


def test_softmax_classifier(tmp_path: Path) -> None:
    """Two classes that exclude each other: log_softmax, with the toxic one found by its exact name."""
    model = BertForSequenceClassification(_config(tmp_path, {0: "nothate", 1: "hate"}))
    model.save_pretrained(tmp_path)
    reward = toxicity(OFFLINE, model=str(tmp_path))
    away = toxicity(OFFLINE, model=str(tmp_path), target="nontoxic")
    judge = reward.judge
    assert isinstance(judge, Classifier)
    assert judge.label == "hate"
    texts = ["you are nice", "a stupid idiot"]
    with torch.no_grad():
        logits = [model.eval()(**judge.tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    expected = torch.stack(logits).double().log_softmax(1)
    torch.testing.assert_close(reward.score(texts), expected[:, 1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(away.score(texts), expected[:, 0], rtol=1e-5, atol=1e-6)


def test_softmax_of_three(tmp_path: Path) -> None:
    """With three classes, not toxic is both others together."""
    config = _config(tmp_path, {0: "neutral", 1: "offensive", 2: "toxic"}, problem_type="single_label_classification")
    model = BertForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    reward = toxicity(OFFLINE, model=str(tmp_path))
    away = toxicity(OFFLINE, model=str(tmp_path), target="nontoxic")
    total = reward.score(TEXTS).exp() + away.score(TEXTS).exp()
    torch.testing.assert_close(total, torch.ones(len(TEXTS), dtype=torch.float64))
    with torch.no_grad():
        logits = model.eval()(**reward.judge.tokenizer("a stupid idiot", return_tensors="pt")).logits[0]  # type: ignore[attr-defined]
    assert reward.score(["a stupid idiot"]).item() == pytest.approx(logits.log_softmax(0)[2].item(), rel=1e-4)


def _config(folder: Path, labels: dict[int, str], **more: Any) -> BertConfig:
    bert(folder, labels, **more)
    return BertConfig.from_pretrained(folder)


@pytest.mark.parametrize(
    ("labels", "more", "error", "message"),
    [
        ({0: "LABEL_0", 1: "LABEL_1"}, {}, UsageError, "LABEL_0, LABEL_1: none says"),
        ({0: "nothate", 1: "other"}, {}, UsageError, "none says"),  # "hate" is in "nothate"
        ({0: "toxic", 1: "obscene", 2: "threat"}, {}, ModelError, "exclude each other"),
        ({0: "toxic"}, {"problem_type": "regression"}, ModelError, "regression"),
    ],
)
def test_classifiers_that_leave_a_question_open(
    tmp_path: Path, labels: dict[int, str], more: dict[str, Any], error: type[Exception], message: str
) -> None:
    BertForSequenceClassification(_config(tmp_path, labels, **more)).save_pretrained(tmp_path)
    with pytest.raises(error, match=message):
        toxicity(OFFLINE, model=str(tmp_path))


def test_label_answers_the_question(tmp_path: Path) -> None:
    BertForSequenceClassification(_config(tmp_path, {0: "LABEL_0", 1: "LABEL_1"})).save_pretrained(tmp_path)
    assert toxicity(OFFLINE, model=str(tmp_path), label="LABEL_1").goal == f"towards toxic text: log p(LABEL_1) by {tmp_path}"
    with pytest.raises(UsageError, match="did you mean 'LABEL_1'"):
        toxicity(OFFLINE, model=str(tmp_path), label="LABEL_2")


def test_classifier_without_a_trained_head(tmp_path: Path) -> None:
    BertForSequenceClassification(_config(tmp_path, {0: "neutral", 1: "toxic"})).bert.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"id2label": {"0": "neutral", "1": "toxic"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"no trained sequence classifier.*classifier"):
        toxicity(OFFLINE, model=str(tmp_path))


def test_lightning_prefix_is_refused(bert_checkpoint: Path) -> None:
    """Detoxify itself would go on with random weights."""
    weights = torch.load(bert_checkpoint, weights_only=True)["state_dict"]
    save(bert_checkpoint, {f"model.{name}": value for name, value in weights.items()}, "bert-base-uncased")
    with pytest.raises(ModelError, match=r"begins with 'model\.'"):
        toxicity(OFFLINE, model=str(bert_checkpoint))


@pytest.mark.parametrize("change", ["lacking", "surplus"])
def test_weights_must_fit(bert_checkpoint: Path, change: str) -> None:
    weights = torch.load(bert_checkpoint, weights_only=True)["state_dict"]
    if change == "lacking":
        del weights["classifier.bias"]
    else:
        weights["classifier.extra"] = torch.zeros(1)
    save(bert_checkpoint, weights, "bert-base-uncased")
    with pytest.raises(ModelError, match=r"such as 'classifier\.(bias|extra)'"):
        toxicity(OFFLINE, model=str(bert_checkpoint))


def test_old_position_ids_are_welcome(bert_checkpoint: Path) -> None:
    weights = torch.load(bert_checkpoint, weights_only=True)["state_dict"]
    before = toxicity(OFFLINE, model=str(bert_checkpoint)).score(TEXTS)
    save(bert_checkpoint, weights | {"bert.embeddings.position_ids": torch.arange(32)[None]}, "bert-base-uncased")
    assert torch.equal(toxicity(OFFLINE, model=str(bert_checkpoint)).score(TEXTS), before)


def test_code_in_a_checkpoint_is_not_executed(bert_checkpoint: Path) -> None:
    content = torch.load(bert_checkpoint, weights_only=True)
    proof = bert_checkpoint.parent / "proof"
    torch.save(content | {"extra": tiny.Code(proof)}, bert_checkpoint)
    with pytest.raises(ModelError, match="carries code"):
        toxicity(OFFLINE, model=str(bert_checkpoint))
    assert not proof.exists()
    torch.load(bert_checkpoint, weights_only=False)
    assert proof.exists()  # the bait is real


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, [1], {"state_dict": {}, "config": {"arch": {"args": {}}}}])
def test_other_files_are_no_checkpoints(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ModelError, match="is not a detoxify checkpoint"):
        toxicity(OFFLINE, model=str(tmp_path / "other.ckpt"))
    (tmp_path / "text.ckpt").write_text("not a checkpoint")
    with pytest.raises(ModelError, match="not a checkpoint of plain tensors"):
        toxicity(OFFLINE, model=str(tmp_path / "text.ckpt"))


def test_offline_refusals(tmp_path: Path) -> None:
    """What would need a network is refused at once, by name."""
    with pytest.raises(ModelError, match="'original' is downloaded"):
        toxicity(OFFLINE, model="original")
    with pytest.raises(ModelError, match="the run is offline"):
        toxicity(OFFLINE, model="nobody/nothing")
    alone = save(tmp_path / "alone.ckpt", {}, "bert-base-uncased")
    with pytest.raises(ModelError, match="beside it"):
        toxicity(OFFLINE, model=str(alone))


def test_unknown_names() -> None:
    with pytest.raises(UsageError, match="did you mean 'tiny-toxicity'"):
        toxicity(OFFLINE, model="tiny-toxcity")
    with pytest.raises(UsageError, match=r"unknown toxicity model '\./nowhere'"):
        toxicity(OFFLINE, model="./nowhere")
    with pytest.raises(UsageError, match="unknown label"):
        toxicity(OFFLINE, model="heldout-toxicity", label="threat")
    with pytest.raises(UsageError, match="did you mean 'tiny-toxicity'"):
        embedded.path("tiny-toxic")


def test_scorer_takes_it() -> None:
    values = Scorer([Weighted("toxicity", toxicity(OFFLINE))])(["you are a stupid idiot.", "", "thank you."])
    assert values.shape == (3, 1)
    assert values[0] > values[2]


def test_features_are_stable() -> None:
    """The hash is CRC-32, so a shipped weight means the same n-gram on any machine; the value is 1 / sqrt(buckets hit)."""
    features = Features(buckets=1000, words=2, characters=(3, 3))
    assert list(features.grams("Hi you")) == ["whi", "wyou", "whi you", "c hi", "chi ", "c yo", "cyou", "cou "]
    found = features("Hi you")
    assert found == features("hi  YOU")
    assert sorted(found) == [383, 535, 613, 748, 802, 815, 866, 901]
    assert sum(value**2 for value in found.values()) == pytest.approx(1)
    assert features("") == {}


def test_registered_without_torch() -> None:
    """The plugin and the reward's options are known without importing torch or transformers."""
    code = (
        "import sys, inspect, fktext_plugins, fktext_plugins.builtin, fktext_plugins.toxicity as module\n"
        "found = {}\n"
        "fktext_plugins.builtin.fktext_register_rewards(lambda name, factory, **more: found.update({name: (factory, more)}))\n"
        "factory, more = found['toxicity']\n"
        "assert factory == 'fktext_plugins.toxicity:toxicity'\n"
        "assert set(more['options']) == set(inspect.signature(module.toxicity).parameters) - {'context'}\n"
        "assert not {'torch', 'transformers', 'detoxify', 'numpy'} & set(sys.modules), 'heavy'\n"
    )
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | paths, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_card_and_size() -> None:
    """What ships is small, and says what it is."""
    for name, limit in (("tiny-toxicity", 18e6), ("heldout-toxicity", 2.1e6)):
        folder = embedded.path(name)
        assert sum(file.stat().st_size for file in folder.iterdir()) < limit
        card = (folder / "MODEL_CARD.md").read_text()
        assert all(part in card for part in ("ROC-AUC jigsaw", "Licence of the weights", "Recipe", "Limits"))


def test_through_the_door() -> None:
    """As a user gets it, when the distribution is installed."""
    registry = load_plugins()
    if "toxicity" not in registry.rewards:
        pytest.skip("fktext is not installed, so its entry points are not there")
    term = registry.create("toxicity:target=nontoxic=2", OFFLINE)
    assert term.weight == 2
    assert term.reward.score(["thank you."])[0] > logsigmoid(torch.tensor(1.0))
