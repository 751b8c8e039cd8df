"""The `toxicity` reward: log p(toxic) or log p(not toxic) of a text, by a judge of the user's choice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from pydantic import Field

from fktext import embedded
from fktext.errors import UsageError, unknown_name

if TYPE_CHECKING:  # these import torch
    from torch import Tensor

    from fktext.rewards import RewardContext

EMBEDDED = ("tiny-toxicity", "heldout-toxicity")
RELEASED = ("original", "unbiased", "multilingual", "original-small", "unbiased-small")  # detoxify's variants


class Judge(Protocol):
    """A classifier that says how likely a text is of its class."""

    label: str

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """(M,) float64 log(p / (1 - p)), in nats."""
        ...


class Toxicity:
    """log p(toxic) = log sigmoid(z), or log p(not toxic) = log sigmoid(-z), of the judge's log-odds z; in nats.

    Both come from the log-odds: log(1 - p) would lose every digit where p is near 1.

    Args:
        judge: gives z.
        model: the judge's name, for messages.
        target: which of the two.
    """

    def __init__(self, judge: Judge, model: str, target: Literal["toxic", "nontoxic"]) -> None:
        self.judge, self.model, self.target = judge, model, target

    @property
    def goal(self) -> str:
        """Which way this reward steers, on one line."""
        if self.target == "toxic":
            return f"towards toxic text: log p({self.judge.label}) by {self.model}"
        return f"away from toxic text: log p(not {self.judge.label}) by {self.model}"

    @property
    def revision(self) -> str | None:
        """The commit of a model of the hub."""
        return getattr(self.judge, "revision", None)

    @property
    def digest(self) -> str | None:
        """See `fktext.files.provenance.weights_digest`."""
        from fktext.files.provenance import weights_digest

        if self.model in RELEASED:
            from fktext_plugins.classifiers import released_file

            return weights_digest(released_file(self.model))
        return weights_digest(_path(self.model), self.revision)

    def score(self, samples: Sequence[str]) -> Tensor:
        """(M,) float64 log-probabilities."""
        from torch.nn.functional import logsigmoid

        z = self.judge.log_odds(samples)
        return logsigmoid(z if self.target == "toxic" else -z)


def toxicity(
    context: RewardContext,
    *,
    model: str = "tiny-toxicity",
    target: Literal["toxic", "nontoxic"] = "toxic",
    label: str | None = None,
    max_tokens: Annotated[int, Field(ge=4)] | None = None,
) -> Toxicity:
    """The `toxicity` reward.

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
    from fktext_plugins.classifiers import shortened

    return Toxicity(shortened(_judge(model, label, context), model, max_tokens), model, target)


def _judge(model: str, label: str | None, context: RewardContext) -> Judge:
    from fktext_plugins import classifiers, ngram
    from fktext_plugins.classes import model_type

    if model in RELEASED:
        return classifiers.released_detoxify(model, label, context)
    path = _path(model)
    if path.is_dir():
        if model_type(path) == ngram.MODEL_TYPE:
            return ngram.NgramJudge.load(path, label)
        checkpoints = sorted(path.glob("*.ckpt"))
        if len(checkpoints) > 1:
            raise UsageError(f"{path} holds {len(checkpoints)} checkpoints: name one of {', '.join(map(str, checkpoints))}")
        if checkpoints:
            return classifiers.local_detoxify(checkpoints[0], label, context)
        return classifiers.sequence_classifier(str(path), label, context)
    if path.is_file():
        return classifiers.local_detoxify(path, label, context)
    if model.count("/") != 1 or model.startswith((".", "/", "~")):  # no hub id
        raise unknown_name("toxicity model", model, (*EMBEDDED, *RELEASED, "a folder", "a hub id"))
    return classifiers.sequence_classifier(model, label, context)


def _path(model: str) -> Path:
    return embedded.path(model) if model in EMBEDDED else Path(model).expanduser()
