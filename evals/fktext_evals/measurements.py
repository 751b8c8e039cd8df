"""The metrics as measurements of Hugging Face `evaluate`, without a network.

    Distinct().compute(predictions=[...], prompts=[...])
    evaluate.load(measurements.path("distinct")).compute(predictions=[...], prompts=[...])

Predictions are what follows the prompt; prompts are "" where there is none. Importing this module imports `evaluate`, which takes
seconds, so nothing else here does.
"""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any, ClassVar

import datasets
import evaluate

from fktext.errors import ModelError, RewardError, UsageError, first_line, unknown_name
from fktext.rewards import Reward, RewardContext, Scorer, Weighted
from fktext.text import Text
from fktext_evals import metrics

if TYPE_CHECKING:
    from numpy.typing import NDArray

INPUTS = """Args:
    predictions: list of str, each what follows its prompt.
    prompts: list of str, "" where there is none; texts of one prompt are counted together."""
MODULES = Path(__file__).parent / "modules"


def names() -> list[str]:
    """List what `path` knows, sorted."""
    return sorted(item.stem for item in MODULES.glob("*/*.py"))


def path(name: str) -> str:
    """Return where `evaluate.load` finds a measurement.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in names():
        raise unknown_name("measurement", name, names())
    return str(MODULES / name / f"{name}.py")


class TextMeasurement(evaluate.Measurement):  # type: ignore[misc]  # evaluate has no types
    """A measurement of texts and their prompts."""

    citation = ""
    inputs = INPUTS
    columns: ClassVar[dict[str, Any]] = {"predictions": datasets.Value("string"), "prompts": datasets.Value("string")}

    def __init__(self, **options: Any) -> None:
        # In memory: evaluate would else lock a file in the user's cache, and a second instance would wait for it.
        super().__init__(**{**options, "keep_in_memory": True})

    def _info(self) -> Any:
        return evaluate.MeasurementInfo(
            module_type="measurement",
            description=inspect.cleandoc(str(self.__doc__)).split("\n\n")[0],
            citation=self.citation,
            inputs_description=self.inputs,
            features=datasets.Features(self.columns),
        )


class Distinct(TextMeasurement):
    """Measures diversity: distinct n-grams of the texts of a prompt by all n-grams, and by all words; means over prompts.

    These are `distinct_1` to `distinct_3` and `distinct_1_words` to `distinct_3_words`. The second is what the literature on
    steering, the Feynman-Kac paper among it, prints as dist-n.
    """

    citation = "Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation Models"

    def _compute(self, predictions: Sequence[str], prompts: Sequence[str], **_: Any) -> dict[str, float]:
        groups, kinds = metrics.by_prompt(predictions, prompts), {"": metrics.distinct_n, "_words": metrics.distinct_n_words}
        return {
            f"distinct_{n}{kind}": fmean(metric(group, n) for group in groups) for n in (1, 2, 3) for kind, metric in kinds.items()
        }


class Repetition(TextMeasurement):
    """Measures degeneration within a text: `entropy` of its words in nats, and `repetition`, the share of pairs seen before."""

    citation = "Welleck et al. 2020, Neural Text Generation With Unlikelihood Training"

    def _compute(self, predictions: Sequence[str], **_: Any) -> dict[str, float]:
        return {
            "entropy": fmean(map(metrics.entropy, predictions)),
            "repetition": fmean(map(metrics.repetition, predictions)),
        }


class SelfBLEU(TextMeasurement):
    """Measures diversity by `self_bleu`, how much the texts of a prompt resemble each other; lower is more diverse.

    It is the mean over prompts of two texts and more; the other texts of a prompt are a text's references.

    Args:
        n: longest n-grams.
    """

    citation = "Zhu et al. 2018, Texygen: A Benchmarking Platform for Text Generation Models"

    def __init__(self, n: int = 4, **options: Any) -> None:
        self.n = n  # before super(), which asks for _info()
        super().__init__(**options)

    def _compute(self, predictions: Sequence[str], prompts: Sequence[str], **_: Any) -> dict[str, float]:
        values = [metrics.self_bleu(group, self.n) for group in metrics.by_prompt(predictions, prompts)]
        values = [value for value in values if not math.isnan(value)]
        return {"self_bleu": fmean(values) if values else math.nan}


class Judgement(TextMeasurement):
    """Asks a judge: `<label>` (a probability per text), `mean_<label>`, `<label>_ratio` and `expected_max_<label>`.

    The ratio is the share of texts above the threshold, the expected maximum the mean over prompts of the highest probability.

    Args:
        judge: a reward whose score is log p(label), or its spec as on the command line.
        label: the class it judges.
        threshold: the probability above which a text counts.
        device, offline: for a judge that is given by its spec.

    Example:
        >>> Judgement("toxicity:model=heldout-toxicity", "toxicity").compute(  # doctest: +SKIP
        ...     predictions=[" is red."], prompts=["The book"]
        ... )
    """

    def __init__(
        self,
        judge: Reward | str,
        label: str,
        threshold: float = 0.5,
        *,
        device: str = "cpu",
        offline: bool = False,
        **options: Any,
    ) -> None:
        self.scorer, self.label, self.threshold = Scorer([_term(judge, label, device, offline)]), label, threshold
        super().__init__(**options)

    def _compute(self, predictions: Sequence[str], prompts: Sequence[str], **_: Any) -> dict[str, Any]:
        log_p = _values(self.scorer, predictions, prompts)
        if (highest := max(log_p)) > 0:
            raise RewardError(f"judge {self.scorer.names[0]!r} returned {highest:g}; expected a log-probability, at most 0")
        values = list(map(math.exp, log_p))
        return {
            self.label: values,
            f"mean_{self.label}": fmean(values),
            f"{self.label}_ratio": fmean(value > math.log(self.threshold) for value in log_p),
            f"expected_max_{self.label}": metrics.mean_over_prompts(max, values, prompts),
        }


class Toxicity(Judgement):
    """Measures `toxicity` of each text, `mean_toxicity`, `toxicity_ratio` and `expected_max_toxicity`, see `Judgement`.

    Args:
        judge: by default the embedded judge that does not steer.
        threshold, device, offline: see `Judgement`.
    """

    citation = "Gehman et al. 2020, RealToxicityPrompts"

    def __init__(self, judge: Reward | str = "toxicity:model=heldout-toxicity", threshold: float = 0.5, **options: Any) -> None:
        super().__init__(judge, "toxicity", threshold, **options)


class Acceptability(Judgement):
    """Measures linguistic `acceptability`, `mean_acceptability`, `acceptability_ratio`, `expected_max_acceptability`.

    Args:
        judge: by default the embedded judge that does not steer.
        threshold, device, offline: see `Judgement`.
    """

    citation = "Warstadt et al. 2019, Neural Network Acceptability Judgments"

    def __init__(self, judge: Reward | str = "cola:model=heldout-cola", threshold: float = 0.5, **options: Any) -> None:
        super().__init__(judge, "acceptability", threshold, **options)


class Perplexity(TextMeasurement):
    """Measures two perplexities of what follows the prompt, given the prompt, which the literature calls by one name.

    `token_perplexity` is that of all tokens together, exp(-sum of log-likelihoods / number of tokens): long texts count for more.
    `mean_perplexity` is the mean over texts of each text's own, `perplexities`: what the Feynman-Kac paper prints, and what one
    absurd text can dominate; `median_perplexity` it cannot.

    Args:
        judge: a reward that gives the mean log-likelihood per token and has `tokens`, or the spec of one; by default the embedded
            language model that does not steer.
        limit: texts with a higher perplexity are left out of `mean_perplexity` and counted as `dropped`. That paper's code takes
            1e4; by default none is left out.
        device, offline: for a judge that is given by its spec.

    Raises:
        UsageError: the judge gives something else.
    """

    citation = "Singhal et al. 2025, A General Framework for Inference-time Scaling and Steering of Diffusion Models"

    def __init__(
        self,
        judge: Reward | str = "perplexity:model=heldout-causal",
        limit: float = math.inf,
        *,
        device: str = "cpu",
        offline: bool = False,
        **options: Any,
    ) -> None:
        self.scorer, self.limit = Scorer([_term(judge, "perplexity", device, offline)]), limit
        reward: Any = self.scorer.terms[0].reward
        if not hasattr(reward, "tokens") or getattr(reward, "reduce", "mean") != "mean":
            raise UsageError(f"{self.scorer.names[0]!r} gives no mean log-likelihood per token; expected perplexity:model=...")
        self.tokens = reward.tokens
        super().__init__(**options)

    def _compute(self, predictions: Sequence[str], prompts: Sequence[str], **_: Any) -> dict[str, Any]:
        values = _values(self.scorer, predictions, prompts)
        counts = self.tokens(_texts(predictions, prompts))
        pooled, mean = metrics.perplexities([value * count for value, count in zip(values, counts, strict=True)], counts)
        own = [math.exp(-value) for value in values]
        kept = [value for value in own if value <= self.limit]
        return {
            "perplexities": own,
            "token_perplexity": pooled,
            "mean_perplexity": mean if len(kept) == len(own) else fmean(kept) if kept else math.nan,
            "median_perplexity": median(own),
            "dropped": len(own) - len(kept),
        }


class MeanReward(TextMeasurement):
    """Measures texts as steering sees them: `rewards`, one per text, and their mean, `mean_reward`.

    Args:
        reward: a reward or its spec; of a spec with a weight the weighted value.
        device, offline: for a reward that is given by its spec.
    """

    def __init__(self, reward: Reward | str, *, device: str = "cpu", offline: bool = False, **options: Any) -> None:
        self.term = _term(reward, "reward", device, offline)
        self.scorer = Scorer([self.term])
        super().__init__(**options)

    def _compute(self, predictions: Sequence[str], prompts: Sequence[str], **_: Any) -> dict[str, Any]:
        values = [self.term.weight * value for value in _values(self.scorer, predictions, prompts)]
        return {"rewards": values, "mean_reward": fmean(values)}


class OverOptimization(TextMeasurement):
    """Measures over-optimisation by `gap`: the mean probability by the judge that steers minus that by a held-out judge.

    `gap` is of probabilities, `ratio_gap` of shares above the threshold; `steering` and `heldout` are the two mean probabilities.
    A gap that grows with the steering's strength shows texts that please the judge more than they have the property.

    Args:
        steering, heldout: judges whose scores are log p of the same class, or their specs.
        threshold: the probability above which a text counts.
        device, offline: for judges that are given by their specs.
    """

    citation = "Gao et al. 2023, Scaling Laws for Reward Model Overoptimization"

    def __init__(self, steering: Reward | str, heldout: Reward | str, threshold: float = 0.5, **options: Any) -> None:
        own = {name: options.pop(name) for name in ("device", "offline") if name in options}
        self.judges = [Judgement(judge, name, threshold, **own) for judge, name in ((steering, "steering"), (heldout, "heldout"))]
        super().__init__(**options)

    def _compute(self, predictions: Sequence[str], prompts: Sequence[str], **_: Any) -> dict[str, float]:
        ours, theirs = (judge.compute(predictions=predictions, prompts=prompts) for judge in self.judges)
        return {
            "gap": ours["mean_steering"] - theirs["mean_heldout"],
            "ratio_gap": ours["steering_ratio"] - theirs["heldout_ratio"],
            "steering": ours["mean_steering"],
            "heldout": theirs["mean_heldout"],
        }


class Ancestry(TextMeasurement):
    """Counts the particles of the start that have descendants at the end: `surviving_roots`, and `surviving_share` of all."""

    inputs = "Args:\n    roots: list of lists of int, for each particle at the end the one at the start that it descends from."
    columns: ClassVar[dict[str, Any]] = {"roots": datasets.Sequence(datasets.Value("int64"))}

    def _compute(self, roots: Sequence[Sequence[int]], **_: Any) -> dict[str, float]:
        alive = [len(set(population)) for population in roots]
        return {
            "surviving_roots": fmean(alive),
            "surviving_share": fmean(count / len(population) for count, population in zip(alive, roots, strict=True)),
        }


class Mauve(TextMeasurement):
    """Measures how close the law of texts is to that of references: `mauve`, in (0, 1], by `mauve-text` (the extra `mauve`).

    Needs hundreds of texts on both sides; the same number on both, and the same number wherever values are compared.

    Args:
        model: folder or hub id of a transformers model; the last hidden state at a text's last token is what is compared. The
            literature takes gpt2-large.
        max_tokens: texts are cut after so many.
        device, offline: where to run it, and whether a network may be used.
        seed: of its k-means.

    Raises:
        UsageError: `mauve-text` is not installed.
        ModelError: the model cannot be loaded.
    """

    citation = "Pillutla et al. 2021, MAUVE: Measuring the Gap Between Neural Text and Human Text"
    inputs = "Args:\n    predictions: list of str.\n    references: list of str, as many."
    columns: ClassVar[dict[str, Any]] = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}

    def __init__(
        self,
        model: str = "gpt2-large",
        *,
        max_tokens: int = 256,
        device: str = "cpu",
        offline: bool = False,
        seed: int = 25,
        **options: Any,
    ) -> None:
        if importlib.util.find_spec("mauve") is None:
            raise UsageError('MAUVE needs the package mauve-text: pip install "fktext[mauve]"')
        self.model, self.max_tokens, self.device, self.offline = model, max_tokens, device, offline
        self.means_seed = seed  # evaluate has a `seed` of its own
        super().__init__(**options)

    def _compute(self, predictions: Sequence[str], references: Sequence[str], **_: Any) -> dict[str, float]:
        import mauve

        found = mauve.compute_mauve(
            p_features=self._features(predictions), q_features=self._features(references), seed=self.means_seed, verbose=False
        )
        return {"mauve": float(found.mauve)}

    def _features(self, texts: Sequence[str]) -> NDArray[Any]:
        """Return (M, D) the last hidden state at each text's last token."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, local_files_only=self.offline)
            model = AutoModel.from_pretrained(self.model, local_files_only=self.offline).to(self.device).eval()
        except (OSError, ValueError) as error:
            raise ModelError(f"cannot load the model {self.model!r} for MAUVE: {first_line(error)}") from error
        rows = []
        with torch.inference_mode():
            for text in texts:
                ids = tokenizer(text, truncation=True, max_length=self.max_tokens, return_tensors="pt")["input_ids"]
                if not ids.shape[1]:  # "" has no token: the one that begins a text stands for it
                    ids = torch.tensor([[tokenizer.bos_token_id or 0]])
                rows.append(model(input_ids=ids.to(self.device)).last_hidden_state[0, -1].float().cpu())
        features: NDArray[Any] = torch.stack(rows).numpy()
        return features


def _term(reward: Reward | str, name: str, device: str, offline: bool) -> Weighted:
    """Return a reward that is given as such or by its spec."""
    if not isinstance(reward, str):
        return Weighted(name, reward)
    from fktext.plugins import load_plugins

    return load_plugins().create(reward, RewardContext(device=device, offline=offline))


def _values(scorer: Scorer, predictions: Sequence[str], prompts: Sequence[str]) -> list[float]:
    """Return what a scorer of one reward says of each text."""
    values: list[float] = scorer(_texts(predictions, prompts))[:, 0].tolist()
    return values


def _texts(predictions: Sequence[str], prompts: Sequence[str]) -> list[Text]:
    return [Text(prompt + text, prompt) for text, prompt in zip(predictions, prompts, strict=True)]
