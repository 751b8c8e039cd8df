"""The `toxicity` reward: log p(toxic) or log p(not toxic) of a text, by a judge of the user's choice."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fktext.errors import UsageError
from fktext.rewards import Judge, LogProbability, RewardContext, locate

EMBEDDED = ("tiny-toxicity", "heldout-toxicity")
RELEASED = ("original", "unbiased", "multilingual", "original-small", "unbiased-small")  # detoxify's variants


def toxicity(
    context: RewardContext,
    *,
    model: str = "tiny-toxicity",
    target: Literal["toxic", "nontoxic"] = "toxic",
    label: str | None = None,
    max_tokens: Annotated[int, Field(ge=4)] | None = None,
) -> LogProbability:
    """Make the `toxicity` reward.

    Args:
        context: where to run, whether a network may be used, texts per forward pass.
        model: an embedded judge (tiny-toxicity, heldout-toxicity); a variant that detoxify released (original, unbiased,
            multilingual, ...), downloaded; a detoxify checkpoint, or a folder that holds one; any other folder or hub id is a
            sequence classifier of transformers. In this order; a folder named like a judge is written `./name`.
        target: "toxic" rewards log p(toxic), "nontoxic" log p(not toxic).
        label: the class that counts as toxic. By default the first of toxic, toxicity, hate, ... that the judge has.
        max_tokens: of a text, read the first so many of the judge's tokens, special ones and the prompt's among them; by default as
            many as it takes. For networks of transformers.

    Raises:
        UsageError: unknown model or label, or a model whose labels do not say which is toxic.
        ModelError: the files cannot be loaded, or need a network when there is none.
    """
    from fktext_plugins import classifiers

    if model in RELEASED:
        weights: Path | str = classifiers.released_file(model)
        judge: Judge = classifiers.released_detoxify(model, label, context)
    else:
        weights = locate(model, EMBEDDED, "toxicity model", RELEASED)
        judge = _judge(weights, label, context)
    judge = classifiers.shortened(judge, model, max_tokens)
    towards, sign = ("towards", "") if target == "toxic" else ("away from", "not ")
    goal = f"{towards} toxic text: log p({sign}{judge.label}) by {model}"
    return LogProbability(judge, model, goal, weights, opposite=target == "nontoxic")


def _judge(weights: Path | str, label: str | None, context: RewardContext) -> Judge:
    from fktext_plugins import classifiers, ngram

    if isinstance(weights, str):
        return classifiers.sequence_classifier(weights, label, context)
    if weights.is_file():
        return classifiers.local_detoxify(weights, label, context)
    if classifiers.model_type(weights) == ngram.MODEL_TYPE:
        return ngram.NgramJudge.load(weights, label)
    checkpoints = sorted(weights.glob("*.ckpt"))
    if len(checkpoints) > 1:
        raise UsageError(f"{weights} holds {len(checkpoints)} checkpoints: name one of {', '.join(map(str, checkpoints))}")
    if checkpoints:
        return classifiers.local_detoxify(checkpoints[0], label, context)
    return classifiers.sequence_classifier(weights, label, context)
