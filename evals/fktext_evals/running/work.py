"""Makes rows: generates populations, returns a text or an image of each, and has it judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import fktext
from fktext.errors import RewardError, UsageError, shorten
from fktext.files.writing import to_json
from fktext_evals import lineage
from fktext_evals.running.cells import fits_first
from fktext_evals.running.results import Row, writing
from fktext_evals.suites.suite import Method, Suite

if TYPE_CHECKING:  # these import torch
    from fktext.plugins.registry import Registry
    from fktext.population import Population
    from fktext.rewards import Scorer, Weighted
    from fktext.runs import Progress
    from fktext.text import Text
    from fktext.texts.model import TextModel

_LINEAGE_WIDTH = 200  # characters of the texts on the way that a row keeps
_COSTS = ("denoiser_rows", "reward_requests", "reward_calls", "seconds")
_DEAD: Row = {  # no text was returned
    **dict.fromkeys(("text", "spelled_prompt", "continuation", "reward")),
    "judges": {},
    "judged_tokens": {},
}


@dataclass(frozen=True)
class _Returned:
    """What a population came to.

    Attributes:
        population: its weights and lineage.
        place: the particle that is returned.
        sample: what a reward sees; `judged` what judges see.
        text, continuation: what the row says.
    """

    population: Population
    place: int
    sample: Any
    judged: Any
    text: str
    continuation: str


@dataclass(frozen=True)
class Work(ABC):
    """Holds what is needed to make rows.

    Attributes:
        suite: its methods have settings that a model has resolved.
        rewards, judges: score what is generated.
        batch_size: most particles computed at once.
        about: what run.json says of the model.
        at_once: how many batches may take turns at the model (`fktext_evals.running.overlap`).
    """

    at_once: ClassVar[int] = 2
    suite: Suite
    rewards: Scorer
    judges: Scorer
    batch_size: int | None
    about: dict[str, Any]

    @abstractmethod
    def generate(
        self, method: Method, seed: int, prompts: Sequence[str], skip: Container[tuple[int, int]]
    ) -> Iterator[Progress | Population]:
        """Yield all populations of these prompts but those to skip, by index and sample, and how far it is."""

    @abstractmethod
    def returned(self, method: Method, seed: int, population: Population, place: int) -> _Returned:
        """Return a particle of a population."""

    def asked(self, method: Method, seed: int) -> tuple[Any, tuple[Weighted, ...]]:
        """Return the settings and the rewards that a method is run with."""
        settings = replace(method.settings, seed=seed, samples=self.suite.samples)
        return settings, () if settings.method == "base" else tuple(self.rewards.terms)

    def made(self, method: Method, seed: int, wanted: Container[tuple[int, int]]) -> Iterator[Progress | list[Row]]:
        """Yield the rows of what is wanted of a method and seed, batch by batch as they are judged, and how far it is."""
        for item in self.sampled(method, seed, wanted):
            yield self.rows(method, seed, item) if isinstance(item, list) else item

    def sampled(
        self, method: Method, seed: int, wanted: Container[tuple[int, int]]
    ) -> Generator[Progress | list[Population], None, None]:
        """Yield the populations that are wanted of a method and seed, batch by batch, and how far it is.

        A text's noise depends on its prompt, seed and sample, so other prompts need not be there; but where a value is fitted
        before the run it is fitted to all of them.
        """
        from fktext.runs import Progress

        samples = range(self.suite.samples)
        chosen = [
            index
            for index in range(len(self.suite.prompts))
            if fits_first(method) or any((index, sample) in wanted for sample in samples)
        ]
        skip = {(place, sample) for (place, index), sample in product(enumerate(chosen), samples) if (index, sample) not in wanted}
        weighed = size = 0
        batch: list[Population] = []
        for item in self.generate(method, seed, [self.suite.prompts[index] for index in chosen], skip):
            if isinstance(item, Progress):
                weighed, size = item.done, item.done - weighed  # a weighing counts once for each population of the batch
                yield item
                continue
            batch.append(replace(item, member=replace(item.member, prompt_index=chosen[item.prompt_index])))
            if len(batch) == size:
                yield batch
                batch = []

    def rows(self, method: Method, seed: int, populations: Sequence[Population]) -> list[Row]:
        """Judge what was generated in one batch, and make a row of each population."""
        found = [
            self.returned(method, seed, population, population.best() if method.returns == "best" else population.draw())
            for population in populations
            if not population.dead
        ]
        said = self._said(method, seed, found, self._where(method, seed, populations))
        places = {_who(each.population): each.place for each in found}
        return [
            {
                "method": method.name,
                "particles": method.settings.particles,
                "seed": seed,
                "prompt_index": population.prompt_index,
                "prompt": self.suite.prompts[population.prompt_index],
                "sample": population.sample_index,
                **said.get(_who(population), _DEAD),
                **_ancestry(population),
                **{name: getattr(population.ledger, name) for name in _COSTS},
                "lineage": lineage.of(population, places.get(_who(population)), _LINEAGE_WIDTH)
                if self.keeps_lineage(seed, population.sample_index)
                else None,
            }
            for population in populations
        ]

    def _said(self, method: Method, seed: int, found: Sequence[_Returned], where: str) -> dict[tuple[int, int], Row]:
        """Judge what is returned, and say so as rows do."""
        from fktext.text import Text

        rewards, judged = self._rewards(found, where), [each.judged for each in found]
        verdicts, counts = self.judges(judged, where).tolist(), self._tokens(judged)
        return {
            _who(each.population): {
                "text": each.text,
                "spelled_prompt": each.sample.prompt if isinstance(each.sample, Text) else "",
                "continuation": each.continuation,
                "reward": to_json(reward),
                "judges": self._verdict(verdict, each.judged, self._where(method, seed, [each.population])),
                "judged_tokens": count,
            }
            for each, reward, verdict, count in zip(found, rewards, verdicts, counts, strict=True)
        }

    def _rewards(self, found: Sequence[_Returned], where: str) -> list[float]:
        """Return the reward that each text was weighed by; where nothing was weighed, in method "base", compute it."""
        if all(each.population.names for each in found):
            return [float(each.population.rewards[each.place]) for each in found]
        return cast("list[float]", self.rewards.total(self.rewards([each.sample for each in found], where)).tolist())

    def _where(self, method: Method, seed: int, populations: Sequence[Population]) -> str:
        """Say for messages whose texts are judged."""
        first, last = (self.suite.prompts[populations[place].prompt_index] for place in (0, -1))
        prompts = f"prompt {first!r}" if first == last else f"prompts {first!r} to {last!r}"
        return f", judging {method.name} at {method.settings.particles} particles, {prompts}, seed {seed}"

    def keeps_lineage(self, seed: int, sample: int) -> bool:
        """Say whether a row keeps its lineage: the first text's of each method and prompt does; all would be most of the file."""
        return seed == self.suite.seeds[0] and sample == 0

    def _tokens(self, samples: Sequence[Any]) -> list[dict[str, int]]:
        """Count the tokens of each text that each judge sees, where it can tell."""
        judges: list[tuple[str, Any]] = [
            (judge.name, term.reward) for judge, term in zip(self.suite.judges, self.judges.terms, strict=True)
        ]
        counts = {name: reward.tokens(samples) for name, reward in judges if callable(getattr(reward, "tokens", None))}
        return [{name: count[place] for name, count in counts.items()} for place in range(len(samples))]

    def _verdict(self, values: Sequence[float], judged: Any, where: str) -> dict[str, float | None]:
        for judge, value in zip(self.suite.judges, values, strict=True):
            if judge.kind != "mean" and value > 0:
                wanted = "a log-probability" if judge.kind == "share" else "a mean log-likelihood"
                raise RewardError(
                    f"judge {judge.name!r} ({judge.reward}) returned {value:g}{where} ({shorten(str(judged))!r}). "
                    f"A judge of kind {judge.kind!r} must give {wanted}, at most 0."
                )
        return {judge.name: to_json(value) for judge, value in zip(self.suite.judges, values, strict=True)}


@dataclass(frozen=True)
class Texts(Work):
    """Work on texts."""

    model: TextModel

    @classmethod
    def of(cls, suite: Suite, rewards: Scorer, judges: Scorer, batch_size: int | None, model: TextModel) -> Texts:
        """Resolve a suite's settings by a model, and make sure that its prompts fit."""
        runs = [model.resolve(method.asked) for method in suite.methods]
        for length in {run.length for run in runs}:
            for prompt in suite.prompts:
                model.template(prompt, length)
        methods = tuple(replace(method, settings=run) for method, run in zip(suite.methods, runs, strict=True))
        return cls(replace(suite, methods=methods), rewards, judges, batch_size, {"digest": model.digest}, model)

    def generate(
        self, method: Method, seed: int, prompts: Sequence[str], skip: Container[tuple[int, int]]
    ) -> Iterator[Progress | Population]:
        """See `Work`."""
        from fktext.texts.generate import generate

        (settings, terms), guesses = self.asked(method, seed), self.keeps_lineage(seed, 0)
        return generate(self.model, terms, prompts, settings, batch_size=self.batch_size, skip=skip, guesses=guesses, watch=guesses)

    def returned(self, method: Method, seed: int, population: Population, place: int) -> _Returned:
        """See `Work`."""
        text = population.texts[place]
        short = self._judged(text)
        return _Returned(population, place, text, short, str(text), short.continuation)

    def _judged(self, text: Text) -> Text:
        """Cut a text to what judges see: `judge_tokens` of the model's tokens after the prompt."""
        from fktext.text import Text

        continuation, tokens = text.continuation, self.suite.judge_tokens
        if tokens is not None:
            ends = [end for _, end in self.model.tokenizer.encode(continuation, add_special_tokens=False).offsets]
            continuation = continuation[: ends[tokens - 1]] if len(ends) > tokens else continuation
        return Text(text.prompt + continuation, prompt=text.prompt)


@dataclass(frozen=True)
class Images(Work):
    """Work on images: each is a file in `images`, and its name is what a row has for a text."""

    at_once = 1  # a pipeline has one scheduler
    pipeline: Any
    options: dict[str, Any]
    folder: Path

    @classmethod
    def of(
        cls, suite: Suite, rewards: Scorer, judges: Scorer, batch_size: int | None, folder: Path, where: dict[str, Any]
    ) -> Images:
        """Load a suite's pipeline and resolve its settings."""
        from fktext.images.generate import call_options, resolve
        from fktext.images.pipelines import load

        options = dict(suite.pipeline)
        pipeline, digest = load(suite.model, scheduler=options.pop("scheduler", None), **where)
        methods = tuple(replace(method, settings=resolve(method.asked)) for method in suite.methods)
        about = {"digest": digest, "pipeline": type(pipeline).__name__, "scheduler": type(pipeline.scheduler).__name__}
        options = call_options(pipeline, **options)
        return cls(replace(suite, methods=methods), rewards, judges, batch_size, about, pipeline, options, folder)

    def generate(
        self, method: Method, seed: int, prompts: Sequence[str], skip: Container[tuple[int, int]]
    ) -> Iterator[Progress | Population]:
        """See `Work`."""
        from fktext.images.generate import generate

        settings, terms = self.asked(method, seed)
        return generate(self.pipeline, terms, prompts, settings, batch_size=self.batch_size, skip=skip, **self.options)

    def returned(self, method: Method, seed: int, population: Population, place: int) -> _Returned:
        """See `Work`; the file is there before the row."""
        from fktext.images.pictures import png

        image = population.samples[place]
        who = {"method": method.name, "particles": method.settings.particles, "seed": seed, "prompt": population.prompt_index}
        said = f"images/{'-'.join(map(str, [*who.values(), population.sample_index]))}.png"
        path = self.folder / said
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image.pixels, {"suite": self.suite.name, **who, "sample": population.sample_index}))
        return _Returned(population, place, image, image, said, said)


def load_work(
    suite: Suite,
    model: str | TextModel | None,
    registry: Registry | None,
    folder: Path,
    compiled: bool,
    batch_size: int | None,
    where: dict[str, Any],
    judge_device: str = "",
) -> Work:
    """Load a suite's rewards, judges and model.

    Args:
        suite: what is run; its model is loaded unless `model` is one.
        model: a loaded model, or the name that `suite` has.
        registry: rewards by name; default the installed ones.
        folder: the run's, for the files of images.
        compiled, batch_size: see `fktext_evals.run`.
        where: "device", "dtype" and "offline" of `fktext.models.load`.
        judge_device: of the rewards and judges; "" puts them beside the model.
    """
    from fktext.models import load as load_model
    from fktext.plugins import load_plugins
    from fktext.rewards import RewardContext, Scorer

    registry = registry or load_plugins()
    context = RewardContext(judge_device or where["device"], where["offline"], batch_size or RewardContext.batch_size)
    rewards = Scorer([registry.create(spec, context, suite.modality) for spec in suite.rewards])
    judges = Scorer([registry.create(judge.reward, context, suite.modality) for judge in suite.judges])
    if suite.modality == "image":
        if compiled or not (model is None or isinstance(model, str)):
            raise UsageError(f"suite {suite.name!r} is of images: its model is the name of a pipeline, not compiled")
        return Images.of(suite, rewards, judges, batch_size, folder, where)
    loaded = load_model(suite.model, **where) if model is None or isinstance(model, str) else model
    return Texts.of(suite, rewards, judges, batch_size, loaded.compiled() if compiled else loaded)


def identity(work: Work, dtype: str) -> dict[str, Any]:
    """Say what is run: a folder that holds anything else is refused."""
    return {
        "fktext": fktext.__version__,
        "suite": work.suite.as_table(),
        "model": {"name": work.suite.model, **work.about, "dtype": dtype},
        "rewards": {term.name: term.provenance() for term in (*work.rewards.terms, *work.judges.terms)},
    }


def _who(population: Population) -> tuple[int, int]:
    """Say which one it is of those of its method and seed."""
    return population.prompt_index, population.sample_index


def _ancestry(population: Population) -> dict[str, Any]:
    return {
        "log_z": to_json(population.log_z),
        "unique_roots": population.unique_roots(),
        "weighed_at": [step.k for step in population.steps],
        "ess": [round(float(step.ess), 3) for step in population.steps],
        "roots": lineage.roots([step.ancestors.tolist() for step in population.steps]),
        "resampled": sum(bool(step.resampled) for step in population.steps),
    }
