"""The `cola` reward: log p(acceptable), how likely a text is well-formed English, by a judge of the user's choice.

Named after CoLA, the corpus of linguistic acceptability (Warstadt et al. 2019, arXiv 1805.12471), on which such judges are trained.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from fktext.errors import UsageError
from fktext.rewards import LogProbability, RewardContext, locate

EMBEDDED = ("tiny-cola", "heldout-cola")
ACCEPTABLE = ("acceptable", "grammatical", "acceptability")
KNOWN = {"textattack/roberta-base-CoLA": 1}  # their labels are LABEL_0 and LABEL_1; CoLA's 1 is acceptable
EMPTY = -10.0  # nats, the value of a text of white space: no sentence, but no dead end for a particle on its way either


def cola(
    context: RewardContext,
    *,
    model: str = "tiny-cola",
    label: str | None = None,
    max_tokens: Annotated[int, Field(ge=4)] | None = None,
) -> LogProbability:
    """Make the `cola` reward.

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
    from fktext_plugins.classifiers import sequence_classifier, shortened

    weights = locate(model, EMBEDDED, "acceptability model")
    judge = sequence_classifier(weights, label, context, pick=acceptable_index, exclusive=True)
    goal = f"towards well-formed English: log p(acceptable) by {model}"
    return LogProbability(shortened(judge, model, max_tokens), model, goal, weights, empty=EMPTY)


def acceptable_index(name: str, labels: Sequence[str], wanted: str | None) -> int:
    """Return the index of the class of acceptable texts: the one named so, or that which a published model is known to use."""
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
