"""The classifier reward and its preset, on tiny classifiers made here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification, PreTrainedTokenizerFast

import tiny
from fktext import embedded
from fktext.errors import ModelError, UsageError
from fktext.files.provenance import weights_digest
from fktext.plugins import load_plugins
from fktext.rewards import LogProbability, RewardContext
from fktext.text import Text
from fktext_plugins.classes import EMBEDDED

OFFLINE = RewardContext(offline=True, batch_size=2)
SENTIMENTS = ["negative", "neutral", "positive"]
TEXTS = ["good food", "bad", "", "the food was bad the food was good"]


def logits(model: BertForSequenceClassification, folder: Path) -> torch.Tensor:
    """(M, L) one text at a time, straight through transformers."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = [tokenizer(text)["input_ids"] or [0] for text in TEXTS]
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([row])).logits for row in rows]).double()


def create(spec: str) -> LogProbability:
    reward = load_plugins().create(spec, OFFLINE).reward
    assert isinstance(reward, LogProbability)
    return reward


@pytest.mark.parametrize(("activation", "kind"), [("config", "single_label_classification"), ("softmax", None)])
def test_softmax(tmp_path: Path, activation: str, kind: str | None) -> None:
    model = tiny.classifier(tmp_path, SENTIMENTS, problem_type=kind)
    reward = create(f"classifier:model={tmp_path},label=Neutral,activation={activation}")
    torch.testing.assert_close(reward.score(TEXTS), logits(model, tmp_path).log_softmax(1)[:, 1], atol=1e-5, rtol=1e-5)
    assert reward.goal == f"towards neutral: log p(neutral) by {tmp_path}"
    assert reward.digest is not None


@pytest.mark.parametrize(
    "spec", ["classifier:label=positive", "sentiment:label=positive", "toxicity:label=positive", "cola:label=2"]
)
def test_max_tokens_is_what_the_tokenizer_cuts(tmp_path: Path, spec: str) -> None:
    """As the published experiments cut texts; the prompt's are among those that are counted."""
    model = tiny.classifier(tmp_path, SENTIMENTS, problem_type="single_label_classification")
    text, tokenizer = "good bad good bad good bad", PreTrainedTokenizerFast.from_pretrained(tmp_path)
    values: dict[int | None, float] = {}
    for limit in (4, 5, None):
        row = tokenizer(text, **({"truncation": True, "max_length": limit} if limit else {}), return_tensors="pt")["input_ids"]
        assert row.shape[1] == (limit or 6)
        with torch.no_grad():
            values[limit] = model(input_ids=row).logits.double().log_softmax(1)[0, 2].item()
        more = f",max_tokens={limit}" if limit else ""
        reward = load_plugins().create(f"{spec},model={tmp_path}{more}", OFFLINE).reward
        assert reward.score([Text(text, "good bad")])[0] == pytest.approx(values[limit], abs=1e-5)
    assert abs(values[4] - values[5]) > 1e-3 < abs(values[5] - values[None])  # else agreement would mean nothing


def test_max_tokens_needs_tokens() -> None:
    with pytest.raises(UsageError, match=r"max_tokens came as 9: tiny-sentiment has no tokens to count; trim=9 counts words"):
        load_plugins().create("sentiment:max_tokens=9", OFFLINE)
    with pytest.raises(UsageError, match="'max_tokens' came as '2': Input should be greater than or equal to 4"):
        load_plugins().create("toxicity:max_tokens=2", OFFLINE)


@pytest.mark.parametrize(("activation", "kind"), [("config", "multi_label_classification"), ("sigmoid", None)])
def test_sigmoid(tmp_path: Path, activation: str, kind: str | None) -> None:
    model = tiny.classifier(tmp_path, SENTIMENTS, problem_type=kind)
    reward = create(f"classifier:model={tmp_path},label=positive,activation={activation}")
    expected = torch.nn.functional.logsigmoid(logits(model, tmp_path)[:, 2])
    torch.testing.assert_close(reward.score(TEXTS), expected, atol=1e-5, rtol=1e-5)


def test_labels_without_a_meaning_need_an_index(tmp_path: Path) -> None:
    model = tiny.classifier(tmp_path, 2)
    with pytest.raises(UsageError, match=r"'LABEL_1' .* does not say what it means: .* write label=1"):
        create(f"classifier:model={tmp_path},label=LABEL_1")
    with pytest.raises(UsageError, match=r"needs label=; .* has 0 \(LABEL_0\), 1 \(LABEL_1\)"):
        create(f"classifier:model={tmp_path}")
    values = create(f"classifier:model={tmp_path},label=1").score(TEXTS)
    torch.testing.assert_close(values, logits(model, tmp_path).log_softmax(1)[:, 1], atol=1e-5, rtol=1e-5)


def test_wrong_labels(tmp_path: Path) -> None:
    tiny.classifier(tmp_path, SENTIMENTS)
    for label, message in (("positiv", "did you mean 'positive'"), ("3", "unknown label"), ("-1", "unknown label")):
        with pytest.raises(UsageError, match=message):
            create(f"classifier:model={tmp_path},label={label},activation=softmax")
    with pytest.raises(ModelError, match=r"does not say whether they exclude each other: .*activation=softmax"):
        create(f"classifier:model={tmp_path},label=positive")


def test_softmax_over_one_label(tmp_path: Path) -> None:
    tiny.classifier(tmp_path, ["rude"], problem_type="multi_label_classification")
    with pytest.raises(ModelError, match="a softmax over it is always 1"):
        create(f"classifier:model={tmp_path},label=rude,activation=softmax")


def test_sentiment(tmp_path: Path) -> None:
    model = tiny.classifier(tmp_path, SENTIMENTS)
    expected = logits(model, tmp_path).log_softmax(1)
    for index, label in enumerate(SENTIMENTS):
        values = create(f"sentiment:model={tmp_path},label={label}").score(TEXTS)
        torch.testing.assert_close(values, expected[:, index], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(create(f"sentiment:model={tmp_path}").score(TEXTS), expected[:, 2], atol=1e-5, rtol=1e-5)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    model = tiny.classifier(tmp_path, SENTIMENTS)
    (tmp_path / "model.safetensors").unlink()
    proof = tmp_path / "proof"
    torch.save(model.state_dict() | {"extra": tiny.Code(proof)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle of more than tensors; nothing was executed"):
        create(f"sentiment:model={tmp_path}")
    assert not proof.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert proof.exists()  # the bait is real


def test_code_beside_a_model_runs_only_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "model"
    tiny.classifier(folder, SENTIMENTS, problem_type="single_label_classification")
    proof = tmp_path / "proof"
    (folder / "own_code.py").write_text(
        "from pathlib import Path\nfrom transformers import BertConfig, BertForSequenceClassification\n"
        f"Path({str(proof)!r}).write_text('executed')\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class Own(BertForSequenceClassification):\n    config_class = OwnConfig\n"
    )
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own"}
    config["auto_map"] = {"AutoConfig": "own_code.OwnConfig", "AutoModelForSequenceClassification": "own_code.Own"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"it comes with Python code of its own.*trust_remote_code=true"):
        create(f"classifier:model={folder},label=positive")
    assert not proof.exists()
    values = create(f"classifier:model={folder},label=positive,trust_remote_code=true").score(TEXTS)
    assert proof.exists()
    assert values.shape == (4,)


def test_provenance_is_a_digest_of_a_folder_and_the_revision_of_a_hub_s_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision, cache = "0123456789abcdef0123456789abcdef01234567", tmp_path / "hub"
    repo = cache / "models--some--model"
    tiny.classifier(repo / "snapshots" / revision, SENTIMENTS)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    tiny.classifier(tmp_path / "folder", SENTIMENTS)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    folder = load_plugins().create(f"sentiment:model={tmp_path / 'folder'}", OFFLINE).provenance()
    assert sorted(folder) == ["digest", "model", "plugin"]
    hub = load_plugins().create("sentiment:model=some/model", OFFLINE).provenance()
    assert (hub["model"], hub["revision"], hub["digest"]) == ("some/model", revision, folder["digest"])
    assert weights_digest("nobody/nothing") is None
    assert weights_digest("no such thing!") is None


def test_a_hub_model_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot load the sequence classifier 'some/model' .the run is offline: only folders"):
        create("sentiment:model=some/model")


@pytest.mark.parametrize("model", EMBEDDED)
def test_embedded_sentiment(model: str) -> None:
    texts = ["I love this, thank you so much!", "This is terrible and I hate it.", ""]
    good, bad = (create(f"sentiment:model={model},label={label}").score(texts) for label in ("positive", "negative"))
    assert good[0] > bad[0]
    assert bad[1] > good[1]
    torch.testing.assert_close(good.exp() + bad.exp(), torch.ones(3).double())
    with pytest.raises(UsageError, match="neutral"):
        create(f"sentiment:model={model},label=neutral")
    provenance = load_plugins().create(f"sentiment:model={model}", OFFLINE).provenance()
    assert provenance["digest"] == weights_digest(embedded.path(model))
    assert (embedded.path(model) / "MODEL_CARD.md").is_file()


def test_the_embedded_judges_agree_on_plain_cases() -> None:
    texts = [
        "what a beautiful day, i am so happy",
        "you are awful and i am angry",
        "thanks, that was great",
        "how sad and disgusting",
    ]
    one, other = (create(f"sentiment:model={model}").score(texts).exp() > 0.5 for model in EMBEDDED)
    assert one.tolist() == other.tolist() == [True, False, True, False]
