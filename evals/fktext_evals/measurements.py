"""The metrics as measurements of Hugging Face `evaluate`, without a network.

    Distinct().compute(predictions=[...], prompts=[...])

Predictions are what follows the prompt; prompts are "" where there is none. Importing this module imports `evaluate`, which takes
seconds, so nothing else here does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import datasets
import evaluate

from fktext.rewards import Reward, Scorer, Text, Weighted
from fktext_evals import metrics

INPUTS = """Args:
    predictions: list of str, each what follows its prompt.
    prompts: list of str, "" where there is none; texts of one prompt are counted together."""


class TextMeasurement(evaluate.Measurement):  # type: ignore[misc]  # evaluate has no types
    """A measurement of texts and their prompts."""

    description = ""
    citation = ""

    def __init__(self, **options: Any) -> None:
        # In memory: evaluate would else lock a file in the user's cache, and a second instance would wait for it.
        super().__init__(keep_in_memory=True, **options)

    def _info(self) -> Any:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description=self.description,
            citation=self.citation,
            inputs_description=INPUTS,
            features=datasets.Features({"predictions": datasets.Value("string"), "prompts": datasets.Value("string")}),
        )


class Distinct(TextMeasurement):
    """`distinct_1` to `distinct_3` (of n-grams) and `distinct_1_words` to `distinct_3_words` (of words), means over prompts."""

    description = "Diversity: distinct n-grams divided by all n-grams, and by all words, of the texts of each prompt."
    citation = "Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models"

    def _compute(self, predictions: Sequence[str], prompts: Sequence[str], **_: Any) -> dict[str, float]:
        found = {}
        for n in (1, 2, 3):
            for name, metric in ((f"distinct_{n}", metrics.distinct_n), (f"distinct_{n}_words", metrics.distinct_n_words)):
                values = [metric(group, n) for group in metrics.by_prompt(predictions, prompts)]
                found[name] = fmean(values)
        return found


class Repetition(TextMeasurement):
    """`entropy` of a text's words in nats, and `repetition`, the share of its pairs of words that it has had before."""

    description = "Degeneration within a text, means over texts."
    citation = "Welleck et al. 2020, Neural Text Generation With Unlikelihood Training"

    def _compute(self, predictions: Sequence[str], **_: Any) -> dict[str, float]:
        return {
            "entropy": fmean(map(metrics.entropy, predictions)),
            "repetition": fmean(map(metrics.repetition, predictions)),
        }


class Judgement(TextMeasurement):
    """What a judge says: `<label>` (a probability per text), `mean_<label>`, `<label>_ratio` and `expected_max_<label>`.

    Args:
        judge: a reward whose score is log p(label).
        label: the class it judges.
        threshold: the probability above which a text counts.

    Example:
        >>> from fktext.plugins import load_plugins
        >>> judge = load_plugins().create("toxicity:model=heldout-toxicity").reward  # doctest: +SKIP
        >>> Judgement(judge, "toxicity").compute(predictions=[" is red."], prompts=["The book"])  # doctest: +SKIP
    """

    description = "What a classifier says: mean probability, share above a threshold, and mean over prompts of the maximum."

    def __init__(self, judge: Reward, label: str, threshold: float = 0.5, **options: Any) -> None:
        # before super(), which asks for _info()
        self.scorer, self.label, self.threshold = Scorer([Weighted(label, judge)]), label, threshold
        super().__init__(**options)

    def _compute(self, predictions: Sequence[str], prompts: Sequence[str], **_: Any) -> dict[str, Any]:
        texts = [Text(prompt + text, prompt) for text, prompt in zip(predictions, prompts, strict=True)]
        log_p = self.scorer(texts)[:, 0].tolist()
        values = list(map(math.exp, log_p))
        return {
            self.label: values,
            f"mean_{self.label}": fmean(values),
            f"{self.label}_ratio": fmean(value > math.log(self.threshold) for value in log_p),
            f"expected_max_{self.label}": metrics.mean_over_prompts(max, values, prompts),
        }
