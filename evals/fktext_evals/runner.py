"""Running a suite: every method on every prompt and seed, judged, and written down as it comes."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import fktext
from fktext.errors import RewardError, UsageError, shorten
from fktext.files.writing import to_json
from fktext_evals import lineage, results
from fktext_evals.catalogue import load
from fktext_evals.results import Key, Results, Row, RowFile
from fktext_evals.suite import Method, Suite

if TYPE_CHECKING:  # these import torch
    from fktext.plugins.registry import Registry
    from fktext.rewards import Scorer
    from fktext.settings import TextRun
    from fktext.text import Text
    from fktext.texts.generate import Population, Progress
    from fktext.texts.model import TextModel

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "detoxify", "datasets")
_LINEAGE_WIDTH = 200  # characters of the texts on the way that a row keeps
_DEAD: Row = {  # no text was returned
    **dict.fromkeys(("text", "spelled_prompt", "continuation", "reward")),
    "judges": {},
    "judged_tokens": {},
}


@dataclass(frozen=True)
class Note:
    """Something a reader should know, on one line that begins with "warning: " or "note: "."""

    text: str


@dataclass(frozen=True)
class Advanced:
    """How far the run is: `done` of `total` particles; of those at work, a share."""

    done: float
    total: int


@dataclass(frozen=True)
class Written:
    """The rows of a batch, which are in the file now."""

    rows: list[Row]


def run(
    suite: Suite | str,
    model: str | TextModel | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
    batch_size: int | None = None,
    offline: bool = False,
    shard: tuple[int, int] | None = None,
    registry: Registry | None = None,
) -> Results:
    """Run a suite, or go on with a run that was interrupted.

    Seed by seed every method is run, on all prompts at once, so that batches are full; texts are judged and written batch by batch.
    A text depends on the suite, the model and its seed alone: not on what was there already, on shards, or on the batch size. Its
    costs are its share of its batch's, and do depend on them a little.

    Args:
        suite: a `Suite`, or a name or path for `fktext_evals.catalogue.load`.
        model: in place of the suite's: a name or folder for `fktext.models.load`, or a loaded model.
        out: the run's folder, made where there is none; by default `runs/` and the suite's name.
        device, dtype, offline: see `fktext.models.load`; "cuda" is the process's own under torchrun (LOCAL_RANK).
        compiled: let torch compile the model's network (see `TextModel.compiled`).
        batch_size: most particles computed at once; None finds out what fits (see `fktext.texts.generate.generate`).
        shard: (i, n): do the i-th of n parts of seeds x prompts, from 1; default all. Processes that a launcher started together
            (RANK and WORLD_SIZE in the environment, as torchrun and accelerate set them) divide that part among themselves.
        registry: rewards by name; default the installed ones.

    Returns:
        All there is in the folder now, by other processes too; with what `run_steps` said on the way among its notes.

    Raises:
        UsageError: a bad suite, an unknown name, or a folder with another run; before anything is generated.
        RewardError: a reward or judge failed. RunError: the disk is full, say. What is written stays.
    """
    notes: list[str] = []
    found: Results | None = None
    for step in run_steps(
        suite,
        model,
        out=out,
        device=device,
        dtype=dtype,
        compiled=compiled,
        batch_size=batch_size,
        offline=offline,
        shard=shard,
        registry=registry,
    ):
        if isinstance(step, Note):
            notes.append(step.text)
        elif isinstance(step, Results):
            found = step
    assert found is not None, "the last step is the results"
    return replace(found, notes=tuple(dict.fromkeys([*notes, *found.notes])))


def run_steps(
    suite: Suite | str,
    model: str | TextModel | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    compiled: bool = False,
    batch_size: int | None = None,
    offline: bool = False,
    shard: tuple[int, int] | None = None,
    registry: Registry | None = None,
) -> Iterator[Note | Advanced | Written | Results]:
    """Run a suite as `run` does, and tell how far it is.

    Args:
        suite, model, out, device, dtype, compiled, batch_size, offline, shard, registry: see `run`.

    Yields:
        A `Note` where the folder's files are not as they should be. Then, if anything is to do, `Advanced` at the start and after
        each weighing, and `Written` after each batch. At the end the results: all there is in the folder now.

    Raises:
        UsageError, RewardError, RunError: see `run`.
    """
    from fktext.plugins import load_plugins
    from fktext.rewards import RewardContext, Scorer

    suite = suite if isinstance(suite, Suite) else load(suite, registry)
    if model is not None:
        suite = replace(suite, model=model if isinstance(model, str) else model.name)
    part, parts = _shard(shard or (1, 1))
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    registry = registry or load_plugins()
    context = RewardContext(device=device, offline=offline, batch_size=batch_size or RewardContext.batch_size)
    terms = [registry.create(spec, context, suite.modality) for spec in suite.rewards]
    judges = [registry.create(judge.reward, context, suite.modality) for judge in suite.judges]
    folder = Path("runs") / suite.name if out is None else Path(out)
    where = {"device": device, "dtype": dtype, "offline": offline}
    work: _Work
    if suite.modality == "image":
        if compiled or not (model is None or isinstance(model, str)):
            raise UsageError(f"suite {suite.name!r} is of images: its model is the name of a pipeline, not compiled")
        work, about = _images(suite, Scorer(terms), Scorer(judges), batch_size, folder, where)
    else:
        loaded = None if model is None or isinstance(model, str) else model
        work, about = _texts(suite, loaded, Scorer(terms), Scorer(judges), batch_size, compiled, where)
    suite = work.suite
    identity = {
        "fktext": fktext.__version__,
        "suite": suite.as_table(),
        "model": {"name": suite.model, **about, "dtype": dtype},
        "rewards": {term.name: term.provenance() for term in (*terms, *judges)},
    }
    results.create(folder, identity)
    with RowFile(folder / f"rows-{part}-of-{parts}.jsonl") as file:
        yield from map(Note, file.notes)
        before = results.read(folder)
        yield from map(Note, before.notes)
        there = {results.key(row) for row in before.rows}
        jobs = _jobs(suite, there, part, parts)
        if jobs:
            results.append_session(folder, _session(device, batch_size, (part, parts)))
            yield Advanced(0, sum(job.particles for job in jobs))
        yield from _do(jobs, work, file)
    yield results.read(folder)


def _do(jobs: Sequence[_Job], work: _Work, file: RowFile) -> Iterator[Advanced | Written]:
    """Generate, judge and write."""
    done, total = 0, sum(job.particles for job in jobs)
    for job in jobs:
        for item in _by_batch(work.generate(job.method, job.seed, job.skip(work.suite))):
            if isinstance(item, list):
                rows = work.rows(job.method, job.seed, item)
                file.append(rows)
                yield Written(rows)
            else:
                yield Advanced(done + job.particles * item.done / item.total, total)
        done += job.particles


@dataclass(frozen=True)
class _Job:
    """What one call generates: of a method and seed the populations, by prompt index and sample, that are not there yet."""

    method: Method
    seed: int
    wanted: frozenset[tuple[int, int]]

    @property
    def particles(self) -> int:
        """How many in all."""
        return self.method.settings.particles * len(self.wanted)

    def skip(self, suite: Suite) -> set[tuple[int, int]]:
        """Those of the suite that are there, or another shard's."""
        return set(product(range(len(suite.prompts)), range(suite.samples))) - self.wanted


def _jobs(suite: Suite, there: Container[Key], part: int, parts: int) -> list[_Job]:
    """What is to do of one part of the suite, which has every so many-th pair of a seed and a prompt."""
    mine = set(list(product(suite.seeds, range(len(suite.prompts))))[part - 1 :: parts])
    jobs = []
    for seed, method in product(suite.seeds, suite.methods):
        indices = [index for index in range(len(suite.prompts)) if (seed, index) in mine]
        wanted = [pair for pair in product(indices, range(suite.samples)) if (*method.key, seed, *pair) not in there]
        if wanted:
            jobs.append(_Job(method, seed, frozenset(wanted)))
    return jobs


def _by_batch(items: Iterator[Any]) -> Iterator[Progress | list[Any]]:
    """`Progress` as it comes, and the populations of a batch in one list as soon as its last one is there."""
    from fktext.texts.generate import Progress

    done = size = 0
    batch: list[Any] = []
    for item in items:
        if isinstance(item, Progress):
            done, size = item.done, item.done - done  # a weighing counts once for each population of the batch
            yield item
        else:
            batch.append(item)
            if len(batch) == size:
                yield batch
                batch = []


def _texts(
    suite: Suite,
    model: TextModel | None,
    rewards: Scorer,
    judges: Scorer,
    batch_size: int | None,
    compiled: bool,
    where: dict[str, Any],
) -> tuple[_Work, dict[str, Any]]:
    """Texts by the model given or the suite's, settings spelled out, and what run.json says of the model."""
    from fktext.models import load as load_model

    loaded = load_model(suite.model, **where) if model is None else model
    loaded = loaded.compiled() if compiled else loaded
    runs = [loaded.resolve(method.asked) for method in suite.methods]
    for length in {run.length for run in runs}:
        for prompt in suite.prompts:
            loaded.template(prompt, length)
    methods = [replace(method, settings=run) for method, run in zip(suite.methods, runs, strict=True)]
    return _Texts(replace(suite, methods=tuple(methods)), rewards, judges, batch_size, loaded), {"digest": loaded.digest}


def _images(
    suite: Suite, rewards: Scorer, judges: Scorer, batch_size: int | None, folder: Path, where: dict[str, Any]
) -> tuple[_Work, dict[str, Any]]:
    """As `_texts`, of images."""
    from fktext.images.generate import call_options, resolve
    from fktext.images.pipelines import load as load_pipeline

    options = dict(suite.pipeline)
    pipeline, digest = load_pipeline(suite.model, scheduler=options.pop("scheduler", None), **where)
    methods = [replace(method, settings=resolve(method.asked)) for method in suite.methods]
    kinds = {"pipeline": type(pipeline).__name__, "scheduler": type(pipeline.scheduler).__name__}
    work = _Images(
        replace(suite, methods=tuple(methods)), rewards, judges, batch_size, pipeline, call_options(pipeline, **options), folder
    )
    return work, {"digest": digest, **kinds}


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
class _Work(ABC):
    """What is needed to make rows."""

    suite: Suite
    rewards: Scorer
    judges: Scorer
    batch_size: int | None

    @abstractmethod
    def generate(self, method: Method, seed: int, skip: Container[tuple[int, int]]) -> Iterator[Progress | Population]:
        """All populations of a method and seed but those to skip, by prompt index and sample, with how far it is."""

    @abstractmethod
    def returned(self, method: Method, seed: int, item: Population) -> _Returned:
        """What is returned of a population that is not dead."""

    def rows(self, method: Method, seed: int, populations: Sequence[Population]) -> list[Row]:
        """What was generated in one batch, judged."""
        from fktext.text import Text

        found = [self.returned(method, seed, population) for population in populations if not population.dead]
        judged, places = [each.judged for each in found], {_who(each.population): each.place for each in found}
        where = self._where(method, seed, populations)
        rewards = self._rewards(found, where)
        verdicts, counts = self.judges(judged, where).tolist(), self._tokens(judged)
        said = {
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
                **_cost(population),
                "lineage": lineage.of(population, places.get(_who(population)), _LINEAGE_WIDTH)
                if self._keeps_lineage(seed, population.sample_index)
                else None,
            }
            for population in populations
        ]

    def _rewards(self, found: Sequence[_Returned], where: str) -> list[float]:
        """Of each text its reward: the one it was weighed by, and where nothing was weighed, in method "base", a new one."""
        if all(each.population.names for each in found):
            return [float(each.population.rewards[each.place]) for each in found]
        return cast("list[float]", self.rewards.total(self.rewards([each.sample for each in found], where)).tolist())

    def _where(self, method: Method, seed: int, populations: Sequence[Population]) -> str:
        """For messages, whose texts are judged."""
        first, last = (self.suite.prompts[populations[place].prompt_index] for place in (0, -1))
        prompts = f"prompt {first!r}" if first == last else f"prompts {first!r} to {last!r}"
        return f", judging {method.name} at {method.settings.particles} particles, {prompts}, seed {seed}"

    def _keeps_lineage(self, seed: int, sample: int) -> bool:
        """Of each method and prompt the first text's, for reports: all of them would be most of the file."""
        return seed == self.suite.seeds[0] and sample == 0

    def _tokens(self, samples: Sequence[Any]) -> list[dict[str, int]]:
        """Of each text, how many tokens each judge sees that can tell."""
        names = [judge.name for judge in self.suite.judges]
        judges: list[Any] = [term.reward for term in self.judges.terms]
        counts = {
            name: reward.tokens(samples)
            for name, reward in zip(names, judges, strict=True)
            if callable(getattr(reward, "tokens", None))
        }
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
class _Texts(_Work):
    """Work on texts."""

    model: TextModel

    def generate(self, method: Method, seed: int, skip: Container[tuple[int, int]]) -> Iterator[Progress | Population]:
        """See `_Work`."""
        from fktext.texts.generate import generate

        settings = replace(cast("TextRun", method.settings), seed=seed, samples=self.suite.samples)
        terms = () if settings.method == "base" else self.rewards.terms
        guesses = self._keeps_lineage(seed, 0)
        return generate(self.model, terms, self.suite.prompts, settings, batch_size=self.batch_size, skip=skip, guesses=guesses)

    def returned(self, method: Method, seed: int, item: Population) -> _Returned:
        """See `_Work`."""
        place = item.best() if method.returns == "best" else item.draw()
        text = item.texts[place]
        short = self._judged(text)
        return _Returned(item, place, text, short, str(text), short.continuation)

    def _judged(self, text: Text) -> Text:
        """The text as far as judges see it: `judge_tokens` of the model's tokens after the prompt."""
        from fktext.text import Text

        continuation, tokens = text.continuation, self.suite.judge_tokens
        if tokens is not None:
            ends = [end for _, end in self.model.tokenizer.encode(continuation, add_special_tokens=False).offsets]
            continuation = continuation[: ends[tokens - 1]] if len(ends) > tokens else continuation
        return Text(text.prompt + continuation, prompt=text.prompt)


@dataclass(frozen=True)
class _Images(_Work):
    """Work on images: each is a file in `images`, and its name is what a row has for a text."""

    pipeline: Any
    options: dict[str, Any]
    folder: Path

    def generate(self, method: Method, seed: int, skip: Container[tuple[int, int]]) -> Iterator[Progress | Population]:
        """See `_Work`."""
        from fktext.images.generate import generate

        settings = replace(method.settings, seed=seed, samples=self.suite.samples)
        terms = () if settings.method == "base" else self.rewards.terms
        return generate(self.pipeline, terms, self.suite.prompts, settings, batch_size=self.batch_size, skip=skip, **self.options)

    def returned(self, method: Method, seed: int, item: Population) -> _Returned:
        """See `_Work`; the file is there before the row."""
        from fktext.images.pictures import png

        place = item.best() if method.returns == "best" else item.draw()
        image = item.samples[place]
        who = {"method": method.name, "particles": method.settings.particles, "seed": seed, "prompt": item.prompt_index}
        name = "-".join(map(str, [*who.values(), item.sample_index])) + ".png"
        path = self.folder / "images" / name
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(png(image.pixels, {"suite": self.suite.name, **who, "sample": item.sample_index}))
        except OSError as error:
            raise results.RunError(f"cannot write {str(path)!r}: {error.strerror}") from error
        said = f"images/{name}"
        return _Returned(item, place, image, image, said, said)


def _who(population: Population) -> tuple[int, int]:
    """Which one it is of those of its method and seed."""
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


def _cost(population: Population) -> dict[str, float]:
    names = ("denoiser_rows", "reward_requests", "reward_calls", "seconds")
    return {name: asdict(population.ledger)[name] for name in names}


def _shard(given: tuple[int, int]) -> tuple[int, int]:
    """Which part of how many, from 1: of the part that is given, this process's own."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise UsageError(f"RANK and WORLD_SIZE in the environment must be numbers: {error}") from error
    if not 1 <= given[0] <= given[1]:
        raise UsageError(f"shard {given[0]}/{given[1]} is out of range: expected i/n with 1 <= i <= n")
    if not 0 <= rank < world:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {world} in the environment; expected 0 <= RANK < WORLD_SIZE")
    return (given[0] - 1) * world + rank + 1, given[1] * world


def _session(device: str, batch_size: int | None, shard: tuple[int, int]) -> dict[str, Any]:
    import torch

    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "shard": "/".join(map(str, shard)),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else device,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "commit": _commit(Path(fktext.__file__)),
    }


def _versions() -> Iterator[tuple[str, str]]:
    for name in _LIBRARIES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _commit(file: Path) -> str | None:
    """The git commit of a source file, "-dirty" if the checkout has changes; None if git does not track it."""
    git = ["git", "-C", str(file.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        found = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.decode().strip()
