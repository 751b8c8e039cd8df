"""The `cola` reward: log p(acceptable), how likely a text is well-formed English, by a judge of the user's choice.

Named after CoLA, the corpus of linguistic acceptability (Warstadt et al. 2019, arXiv 1805.12471), on which such judges are trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import Field

from fktext import embedded
from fktext.errors import UsageError, unknown_name

if TYPE_CHECKING:  # these import torch
    from torch import Tensor

    from fktext.rewards import RewardContext

EMBEDDED = ("tiny-cola", "heldout-cola")
ACCEPTABLE = ("acceptable", "grammatical", "acceptability")
KNOWN = {"textattack/roberta-base-CoLA": 1}  # their labels are LABEL_0 and LABEL_1; CoLA's 1 is acceptable
EMPTY = -10.0  # nats, the value of a text of white space: no sentence, but no dead end for a particle on its way either


class Judge(Protocol):
    """A classifier that says how likely a text is of its class."""

    def log_odds(self, texts: Sequence[str]) -> Tensor:
        """(M,) float64 log(p / (1 - p)), in nats."""
        ...


class Acceptability:
    """log p(acceptable) = log sigmoid(z) of the judge's log-odds z, in nats; EMPTY for a text of white space only.

    Args:
        judge: gives z.
        model: the judge's name, for messages.
    """

    def __init__(self, judge: Judge, model: str) -> None:
        self.judge, self.model = judge, model

    @property
    def goal(self) -> str:
        """Which way this reward steers, on one line."""
        return f"towards well-formed English: log p(acceptable) by {self.model}"

    @property
    def revision(self) -> str | None:
        """The commit of a model of the hub."""
        return getattr(self.judge, "revision", None)

    @property
    def digest(self) -> str | None:
        """See `fktext.files.provenance.weights_digest`."""
        from fktext.files.provenance import weights_digest

        return weights_digest(_path(self.model), self.revision)

    def score(self, samples: Sequence[str]) -> Tensor:
        """(M,) float64 log-probabilities."""
        import torch
        from torch.nn.functional import logsigmoid

        value = torch.full((len(samples),), EMPTY, dtype=torch.float64)
        full = [index for index, text in enumerate(samples) if text.strip()]
        if full:
            value[full] = logsigmoid(self.judge.log_odds([samples[index] for index in full]))
        return value


def cola(
    context: RewardContext,
    *,
    model: str = "tiny-cola",
    label: str | None = None,
    max_tokens: Annotated[int, Field(ge=4)] | None = None,
) -> Acceptability:
    """The `cola` reward.

    Args:
        context: where to run, whether a network may be used, texts per forward pass.
        model: an embedded judge (tiny-cola, heldout-cola), or a folder or hub id of a transformers sequence classifier, such as
            textattack/roberta-base-CoLA. A folder named like a judge is written `./name`.
        label: the class of acceptable texts, by name or index; needed where the model's labels do not tell.
        max_tokens: of a text, read the first so many of the judge's tokens, special ones and the prompt's among them; by default as
            many as it takes. For networks of transformers.

    Raises:
        UsageError: unknown model or label, or a model whose labels do not say which is acceptable.
        ModelError: the files cannot be loaded, or need a network when there is none.
    """
    from fktext_plugins.classifiers import shortened

    return Acceptability(shortened(_judge(model, label, context), model, max_tokens), model)


def acceptable_index(name: str, labels: Sequence[str], wanted: str | None) -> int:
    """The index of the class of acceptable texts: the one named so, or that of a published model known to number its classes."""
    from fktext_plugins.classes import label_index

    if wanted is not None:
        return label_index(name, labels, wanted)
    lower = [str(label).lower() for label in labels]
    for label in ACCEPTABLE:
        if label in lower:
            return lower.index(label)
    if name in KNOWN and all(re.fullmatch(r"label_\d+", label) for label in lower) and KNOWN[name] < len(labels):
        return KNOWN[name]
    raise UsageError(
        f"the labels of {name} are {', '.join(labels)}: none says that a text is acceptable. "
        f"If its card says that it is the last, write cola:model={name},label={len(labels) - 1}"
    )


def _judge(model: str, label: str | None, context: RewardContext) -> Judge:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from fktext.files.pretrained import pretrained
    from fktext.files.weights import int8_weights
    from fktext_plugins import classifiers

    path = _path(model)
    if not path.is_dir():
        if model.count("/") != 1 or model.startswith((".", "/", "~")):  # no hub id
            raise unknown_name("acceptability model", model, (*EMBEDDED, "a folder", "a hub id"))
        return classifiers.sequence_classifier(model, label, context, pick=acceptable_index, exclusive=True)
    if int8_weights(path) is None:
        return classifiers.sequence_classifier(str(path), label, context, pick=acceptable_index, exclusive=True)
    network = pretrained(path, AutoModelForSequenceClassification, "a sequence classifier").to(context.device)
    labels = [network.config.id2label[index] for index in range(network.config.num_labels)]
    index = acceptable_index(model, labels, label)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return classifiers.Classifier(network, tokenizer, labels[index], index, True, context.batch_size)


def _path(model: str) -> Path:
    return embedded.path(model) if model in EMBEDDED else Path(model).expanduser()
