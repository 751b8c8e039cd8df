"""Runs a suite: every method on every prompt and seed, judged, and written down as it comes."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import fktext
from fktext.errors import UsageError
from fktext_evals import results
from fktext_evals.catalogue import load
from fktext_evals.results import Key, Results, Row, RowFile
from fktext_evals.session import session
from fktext_evals.suite import Method, Suite
from fktext_evals.work import Images, Texts, Work

if TYPE_CHECKING:  # these import torch
    from fktext.plugins.registry import Registry
    from fktext.texts.model import TextModel


@dataclass(frozen=True)
class Note:
    """Tells what a reader should know, on one line that begins with "warning: " or "note: "."""

    text: str


@dataclass(frozen=True)
class Advanced:
    """Tells how far the run is: `done` of `total` particles; of those at work, a share."""

    done: float
    total: int


@dataclass(frozen=True)
class Written:
    """Brings the rows of a batch, which are in the file now."""

    rows: list[Row]


class Options(TypedDict, total=False):
    """The keywords of `run` and `run_steps`."""

    out: str | os.PathLike[str] | None
    device: str
    dtype: str
    compiled: bool
    batch_size: int | None
    offline: bool
    shard: tuple[int, int] | None
    registry: Registry | None


def run(suite: Suite | str, model: str | TextModel | None = None, **options: Unpack[Options]) -> Results:
    """Run a suite, or go on with a run that was interrupted.

    Seed by seed every method is run, on all prompts at once, so that batches are full; texts are judged and written batch by batch.
    A text depends on the suite, the model and its seed alone: not on what was there already, on shards, or on the batch size. Its
    costs are its share of its batch's, and do depend on them a little.

    Args:
        suite: a `Suite`, or a name or path for `fktext_evals.load`.
        model: in place of the suite's: a name or folder for `fktext.models.load`, or a loaded model.
        out: the run's folder, made where there is none; by default `runs/` and the suite's name.
        device, dtype, offline: see `fktext.models.load`; "cpu" and "float32" by default. "cuda" is the process's own under torchrun
            (LOCAL_RANK).
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
    for step in run_steps(suite, model, **options):
        if isinstance(step, Note):
            notes.append(step.text)
        elif isinstance(step, Results):
            return replace(step, notes=tuple(dict.fromkeys([*notes, *step.notes])))
    raise AssertionError("a run ends with its results")


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
        suite, model, options: see `run`.

    Yields:
        A `Note` where the folder's files are not as they should be. Then, if anything is to do, `Advanced` at the start and after
        each weighing, and `Written` after each batch. At the end the results: all there is in the folder now.

    Raises:
        UsageError, RewardError, RunError: see `run`.
    """
    suite = suite if isinstance(suite, Suite) else load(suite, registry)
    if model is not None:
        suite = replace(suite, model=model if isinstance(model, str) else model.name)
    part, parts = _shard(shard or (1, 1))
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    folder = Path("runs") / suite.name if out is None else Path(out)
    where: dict[str, Any] = {"device": device, "dtype": dtype, "offline": offline}
    work = _work(suite, model, registry, folder, compiled, batch_size, where)
    results.create(folder, _identity(work, dtype))
    with RowFile(folder / f"rows-{part}-of-{parts}.jsonl") as file:
        yield from map(Note, file.notes)
        before = results.read(folder)
        yield from map(Note, before.notes)
        jobs = _jobs(work.suite, {results.key(row) for row in before.rows}, part, parts)
        if jobs:
            results.append_session(folder, session(device, batch_size, (part, parts)))
            yield Advanced(0, sum(job.particles for job in jobs))
        yield from _do(jobs, work, file)
    yield results.read(folder)


def _work(
    suite: Suite,
    model: str | TextModel | None,
    registry: Registry | None,
    folder: Path,
    compiled: bool,
    batch_size: int | None,
    where: dict[str, Any],
) -> Work:
    """Load a suite's rewards, judges and model."""
    from fktext.models import load as load_model
    from fktext.plugins import load_plugins
    from fktext.rewards import RewardContext, Scorer

    registry = registry or load_plugins()
    context = RewardContext(where["device"], where["offline"], batch_size or RewardContext.batch_size)
    rewards = Scorer([registry.create(spec, context, suite.modality) for spec in suite.rewards])
    judges = Scorer([registry.create(judge.reward, context, suite.modality) for judge in suite.judges])
    if suite.modality == "image":
        if compiled or not (model is None or isinstance(model, str)):
            raise UsageError(f"suite {suite.name!r} is of images: its model is the name of a pipeline, not compiled")
        return Images.of(suite, rewards, judges, batch_size, folder, where)
    loaded = load_model(suite.model, **where) if model is None or isinstance(model, str) else model
    return Texts.of(suite, rewards, judges, batch_size, loaded.compiled() if compiled else loaded)


def _identity(work: Work, dtype: str) -> dict[str, Any]:
    """Say what is run: a folder that holds anything else is refused."""
    return {
        "fktext": fktext.__version__,
        "suite": work.suite.as_table(),
        "model": {"name": work.suite.model, **work.about, "dtype": dtype},
        "rewards": {term.name: term.provenance() for term in (*work.rewards.terms, *work.judges.terms)},
    }


def _do(jobs: Sequence[_Job], work: Work, file: RowFile) -> Iterator[Advanced | Written]:
    """Generate, judge and write."""
    from fktext.runs import Progress

    done, total = 0, sum(job.particles for job in jobs)
    for job in jobs:
        weighed = size = 0
        batch: list[Any] = []
        for item in work.generate(job.method, job.seed, job.skip(work.suite)):
            if isinstance(item, Progress):
                weighed, size = item.done, item.done - weighed  # a weighing counts once for each population of the batch
                yield Advanced(done + job.particles * item.done / item.total, total)
                continue
            batch.append(item)
            if len(batch) == size:
                rows = work.rows(job.method, job.seed, batch)
                file.append(rows)
                yield Written(rows)
                batch = []
        done += job.particles


@dataclass(frozen=True)
class _Job:
    """What one call generates: of a method and seed the populations, by prompt index and sample, that are not there yet."""

    method: Method
    seed: int
    wanted: frozenset[tuple[int, int]]

    @property
    def particles(self) -> int:
        """Count them all."""
        return self.method.settings.particles * len(self.wanted)

    def skip(self, suite: Suite) -> set[tuple[int, int]]:
        """Return those of the suite that are there, or another shard's."""
        return set(product(range(len(suite.prompts)), range(suite.samples))) - self.wanted


def _jobs(suite: Suite, there: Container[Key], part: int, parts: int) -> list[_Job]:
    """List what is to do of one part of the suite: of n parts, the i-th has every n-th pair of a seed and a prompt."""
    mine = set(list(product(suite.seeds, range(len(suite.prompts))))[part - 1 :: parts])
    jobs = []
    for seed, method in product(suite.seeds, suite.methods):
        indices = [index for index in range(len(suite.prompts)) if (seed, index) in mine]
        wanted = [pair for pair in product(indices, range(suite.samples)) if (*method.key, seed, *pair) not in there]
        if wanted:
            jobs.append(_Job(method, seed, frozenset(wanted)))
    return jobs


def _shard(given: tuple[int, int]) -> tuple[int, int]:
    """Return this process's own part of the part that is given, and of how many, from 1."""
    try:
        rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError as error:
        raise UsageError(f"RANK and WORLD_SIZE in the environment must be numbers: {error}") from error
    if not 1 <= given[0] <= given[1]:
        raise UsageError(f"shard {given[0]}/{given[1]} is out of range: expected i/n with 1 <= i <= n")
    if not 0 <= rank < world:
        raise UsageError(f"RANK is {rank} and WORLD_SIZE {world} in the environment; expected 0 <= RANK < WORLD_SIZE")
    return (given[0] - 1) * world + rank + 1, given[1] * world
