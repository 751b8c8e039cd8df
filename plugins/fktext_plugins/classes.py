"""The `classifier` reward, log p(label) by any sequence classifier of transformers, and its preset `sentiment`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from fktext import embedded
from fktext.errors import UsageError, unknown_name

if TYPE_CHECKING:  # these import torch
    from torch import Tensor

    from fktext.rewards import RewardContext

EMBEDDED = ("tiny-sentiment", "heldout-sentiment")


class Judge(Protocol):
    """A classifier that says how likely a text is of its class."""

    label: str

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """(M,) float64 log(p / (1 - p)), in nats."""
        ...


class Opposite:
    """The other one of a judge's two classes."""

    def __init__(self, judge: Judge, label: str) -> None:
        self.judge, self.label = judge, label

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """(M,) float64 log-odds of the class."""
        return -self.judge.log_odds(texts)


class ClassReward:
    """log p(label), in nats.

    Args:
        judge: the classifier.
        model: its name, for messages.
    """

    def __init__(self, judge: Judge, model: str) -> None:
        self.judge, self.model = judge, model

    @property
    def goal(self) -> str:
        """Which way this reward steers, on one line."""
        return f"towards {self.judge.label}: log p({self.judge.label}) by {self.model}"

    @property
    def revision(self) -> str | None:
        """The commit of a model of the hub."""
        return getattr(self.judge, "revision", None)

    @property
    def digest(self) -> str | None:
        """See `fktext.files.provenance.weights_digest`."""
        from fktext.files.provenance import weights_digest

        return weights_digest(_path(self.model) if _path(self.model).is_dir() else self.model, self.revision)

    def score(self, samples: Sequence[str]) -> Tensor:
        """(M,) float64 log-probabilities."""
        from torch.nn.functional import logsigmoid

        return logsigmoid(self.judge.log_odds(samples))


def classifier(
    context: RewardContext,
    *,
    model: str,
    label: str | None = None,
    activation: Literal["config", "softmax", "sigmoid"] = "config",
    max_tokens: Annotated[int, Field(ge=4)] | None = None,
    trust_remote_code: bool = False,
) -> ClassReward:
    """The `classifier` reward.

    Args:
        context: where to run, whether a network may be used, texts per forward pass.
        model: a folder or a hub id.
        label: the class, by its name in the model's config (upper or lower case) or its index. Names like LABEL_1 say nothing of
            what the class is, so such a class is named by its index.
        activation: whether the classes exclude each other (softmax) or not (sigmoid); by default what the model's config says.
        max_tokens: of a text, read the first so many of the judge's tokens, special ones and the prompt's among them; by default as
            many as it takes.
        trust_remote_code: run Python code that comes with the model. Only for a model whose code you have read.

    Raises:
        UsageError: no such label, or none given.
        ModelError: the model cannot be loaded, or does not say whether its classes exclude each other.
    """
    from fktext_plugins.classifiers import sequence_classifier, shortened

    exclusive = {"config": None, "softmax": True, "sigmoid": False}[activation]
    judge = sequence_classifier(model, label, context, pick=label_index, exclusive=exclusive, trust_remote_code=trust_remote_code)
    return ClassReward(shortened(judge, model, max_tokens), model)


def sentiment(
    context: RewardContext,
    *,
    model: str = "tiny-sentiment",
    label: Literal["positive", "neutral", "negative"] = "positive",
    max_tokens: Annotated[int, Field(ge=4)] | None = None,
) -> ClassReward:
    """The `sentiment` reward: `classifier` with a model for it, whose classes exclude each other.

    Args:
        context: as for `classifier`.
        model: an embedded judge (tiny-sentiment, heldout-sentiment), or a folder or hub id with such labels, such as
            cardiffnlp/twitter-roberta-base-sentiment-latest. A folder named like a judge is written `./name`.
        label: the sentiment to steer towards. The embedded judges know no neutral.
        max_tokens: as for `classifier`; not for the embedded judges, which count other things.

    Raises:
        UsageError: the model has no such label.
        ModelError: the model cannot be loaded; without a network it must be embedded, a folder, or in the hub cache.
    """
    from fktext_plugins import convolutional, ngram
    from fktext_plugins.classifiers import shortened

    path = _path(model)
    kind = model_type(path)
    if kind not in (ngram.MODEL_TYPE, convolutional.MODEL_TYPE):
        return classifier(context, model=model, label=label, activation="softmax", max_tokens=max_tokens)
    if label == "neutral":
        raise unknown_name(f"label of {model}:", label, ["positive", "negative"])
    judge: Judge
    if kind == ngram.MODEL_TYPE:
        judge = ngram.NgramJudge.load(path, "positive")
    else:
        judge = convolutional.ConvolutionalJudge.load(path, "positive", context.device, context.batch_size)
    judge = shortened(judge, model, max_tokens)
    return ClassReward(judge if label == "positive" else Opposite(judge, label), model)


def _path(model: str) -> Path:
    return embedded.path(model) if model in EMBEDDED else Path(model).expanduser()


def model_type(folder: Path) -> str | None:
    """What the config.json of a folder says it holds; None without one."""
    config = folder / "config.json"
    return json.loads(config.read_text()).get("model_type") if config.is_file() else None


def label_index(name: str, labels: Sequence[str], wanted: str | None) -> int:
    """The index of a label: by its name, or written as a number."""
    choices = ", ".join(f"{index} ({label})" for index, label in enumerate(labels))
    if wanted is None:
        raise UsageError(f"reward 'classifier' needs label=; {name} has {choices}")
    lower = [str(label).lower() for label in labels]
    if wanted.lower() in lower and not re.fullmatch(r"label_\d+", wanted.lower()):
        return lower.index(wanted.lower())
    if wanted.isascii() and wanted.isdigit() and int(wanted) < len(labels):
        return int(wanted)
    if wanted.lower() in lower:
        raise UsageError(
            f"label {wanted!r} of {name} does not say what it means: if the model's card says it is the one, write "
            f"label={lower.index(wanted.lower())}"
        )
    raise unknown_name(f"label of {name}:", wanted, [*labels, *map(str, range(len(labels)))])
