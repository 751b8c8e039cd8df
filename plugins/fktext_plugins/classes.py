"""The `classifier` reward, log p(label) by any sequence classifier of transformers, and its preset `sentiment`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fktext.errors import UsageError, unknown_name

if TYPE_CHECKING:  # these import torch
    from torch import Tensor

    from fktext.rewards import RewardContext
    from fktext_plugins.classifiers import Classifier

SENTIMENT = "cardiffnlp/twitter-roberta-base-sentiment-latest"


class ClassReward:
    """log p(label), in nats.

    Args:
        judge: the classifier.
        model: its name, for messages.
    """

    def __init__(self, judge: Classifier, model: str) -> None:
        self.judge, self.model = judge, model

    @property
    def goal(self) -> str:
        """Which way this reward steers, on one line."""
        return f"towards {self.judge.label}: log p({self.judge.label}) by {self.model}"

    @property
    def digest(self) -> str | None:
        """First 16 hex digits of the sha256 over the weights; None where they are in a cache and not in a folder."""
        from fktext.checkpoint_files import digest, weight_files

        path = Path(self.model)
        return digest(weight_files(path)) if path.exists() else None

    def score(self, samples: Sequence[str]) -> Tensor:
        """(M,) float64 log-probabilities."""
        from torch.nn.functional import logsigmoid

        return logsigmoid(self.judge.log_odds(samples))


def classifier(
    context: RewardContext, *, model: str, label: str | None = None, activation: Literal["config", "softmax", "sigmoid"] = "config"
) -> ClassReward:
    """The `classifier` reward.

    Args:
        context: where to run, whether a network may be used, texts per forward pass.
        model: a folder or a hub id.
        label: the class, by its name in the model's config (upper or lower case) or its index. Names like LABEL_1 say nothing of
            what the class is, so such a class is named by its index.
        activation: whether the classes exclude each other (softmax) or not (sigmoid); by default what the model's config says.

    Raises:
        UsageError: no such label, or none given.
        ModelError: the model cannot be loaded, or does not say whether its classes exclude each other.
    """
    from fktext_plugins.classifiers import sequence_classifier

    exclusive = {"config": None, "softmax": True, "sigmoid": False}[activation]
    return ClassReward(sequence_classifier(model, label, context, pick=label_index, exclusive=exclusive), model)


def sentiment(
    context: RewardContext, *, model: str = SENTIMENT, label: Literal["positive", "neutral", "negative"] = "positive"
) -> ClassReward:
    """The `sentiment` reward: `classifier` with a model for it, whose classes exclude each other.

    Args:
        context: as for `classifier`.
        model: a folder or hub id with such labels.
        label: the sentiment to steer towards.

    Raises:
        UsageError: the model has no such label.
        ModelError: the model cannot be loaded; without a network it must be a folder, or be in the hub cache.
    """
    return classifier(context, model=model, label=label, activation="softmax")


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
