"""The `classifier` reward, log p(label) by any sequence classifier of transformers, and its preset `sentiment`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fktext.errors import UsageError, unknown_name
from fktext.rewards import Judge, LogProbability, RewardContext, locate

EMBEDDED = ("tiny-sentiment", "heldout-sentiment")


def classifier(
    context: RewardContext,
    *,
    model: str,
    label: str | None = None,
    activation: Literal["config", "softmax", "sigmoid"] = "config",
    max_tokens: Annotated[int, Field(ge=4)] | None = None,
    trust_remote_code: bool = False,
) -> LogProbability:
    """Make the `classifier` reward.

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
    weights = locate(model, ())
    judge = sequence_classifier(weights, label, context, pick=label_index, exclusive=exclusive, trust_remote_code=trust_remote_code)
    return LogProbability(shortened(judge, model, max_tokens), model, _goal(judge.label, model), weights)


def sentiment(
    context: RewardContext,
    *,
    model: str = "tiny-sentiment",
    label: Literal["positive", "neutral", "negative"] = "positive",
    max_tokens: Annotated[int, Field(ge=4)] | None = None,
) -> LogProbability:
    """Make the `sentiment` reward: `classifier` with a model for it, whose classes exclude each other.

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
    from fktext_plugins.classifiers import model_type, shortened

    weights = locate(model, EMBEDDED)
    kind, folder = model_type(weights), Path(weights)
    if kind not in (ngram.MODEL_TYPE, convolutional.MODEL_TYPE):
        return classifier(context, model=model, label=label, activation="softmax", max_tokens=max_tokens)
    if label == "neutral":
        raise unknown_name(f"label of {model}:", label, ["positive", "negative"])
    judge: Judge
    if kind == ngram.MODEL_TYPE:
        judge = ngram.NgramJudge.load(folder, "positive")
    else:
        judge = convolutional.ConvolutionalJudge.load(folder, "positive", context.device, context.batch_size)
    judge = shortened(judge, model, max_tokens)
    return LogProbability(judge, model, _goal(label, model), weights, opposite=label == "negative")


def _goal(label: str, model: str) -> str:
    return f"towards {label}: log p({label}) by {model}"


def label_index(name: str, labels: Sequence[str], wanted: str | None) -> int:
    """Return the index of a label, given by its name or written as a number."""
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
