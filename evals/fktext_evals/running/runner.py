"""Runs a suite: every method on every prompt and seed, judged, and written down as it comes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from fktext.errors import UsageError
from fktext_evals.executors import Executor, Job, Worker, find
from fktext_evals.running import results
from fktext_evals.running.cells import Cell, batch_of, cells
from fktext_evals.running.overlap import Turns, overlapped
from fktext_evals.running.places import Objects, place, reaching
from fktext_evals.running.results import Results, Row, RowFile
from fktext_evals.running.session import session
from fktext_evals.running.sweep import sweep
from fktext_evals.running.work import Work, identity, load_work
from fktext_evals.suites.catalogue import load
from fktext_evals.suites.suite import Suite

if TYPE_CHECKING:  # these import torch
    from fktext.plugins.registry import Registry
    from fktext.texts.model import TextModel
    from fktext_evals.running.plan import Plan


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
    executor: str | Executor
    workers: int
    retries: int | None
    options: Mapping[str, str] | None
    judge_device: str | None


def run(suite: Suite | str, model: str | TextModel | None = None, **options: Unpack[Options]) -> Results:
    """Run a suite, or go on with a run that was interrupted.

    Seed by seed every method is run, in batches over all prompts; texts are judged and written batch by batch. A text depends on
    the suite, the model and its seed alone: not on what was there already, on shards, workers, or the batch size. Its costs are
    its share of its batch's, and depend on the batch size a little.

    Args:
        suite: a `Suite`, or a name or path for `fktext_evals.load`.
        model: in place of the suite's: a name or folder for `fktext.models.load`, or a loaded model.
        out: the run's folder, made where there is none; by default `runs/` and the suite's name. Or any address of fsspec, such as
            "s3://bucket/run".
        device, dtype, offline: see `fktext.models.load`; "cpu" and "float32" by default. "cuda" is the process's own under torchrun
            (LOCAL_RANK).
        compiled: let torch compile the model's network (see `TextModel.compiled`).
        batch_size: most particles computed at once; None finds out what fits (see `fktext.texts.generate.generate`).
        shard: (i, n): do the i-th of n parts of seeds x prompts, from 1; default all. Processes that a launcher started together
            (RANK and WORLD_SIZE in the environment, as torchrun and accelerate set them) divide that part among themselves.
        registry: rewards by name; default the installed ones.
        executor: "local", "ray", "slurm", one of a plugin, or an object (`fktext_evals.executors.Executor`).
        workers: how many of its workers; they change no row. A script that starts local ones keeps its own work under
            `if __name__ == "__main__"`.
        retries: how often a batch that failed is tried again, with a longer pause each time, after all others. Then the rows of
            the others are there, and the error counts those that failed. None: 2, but one local process stops at the first error.
        options: of the executor, by name.
        judge_device: of rewards and judges; None puts them beside the model. Where it is another device, one process samples two
            batches in turns, so that one is judged while the model writes the other. That changes no row.

    Returns:
        All there is in the folder now, by other processes too; with what `run_steps` said on the way among its notes.

    Raises:
        UsageError: a bad suite, an unknown name, or a folder with another run; before anything is generated.
        RewardError: a reward or judge failed. RunError: the disk is full, say, or workers failed at some batches. What is written
            stays.
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
    executor: str | Executor = "local",
    workers: int = 1,
    retries: int | None = None,
    options: Mapping[str, str] | None = None,
    judge_device: str | None = None,
) -> Iterator[Note | Advanced | Written | Results]:
    """Run a suite as `run` does, and tell how far it is.

    Args:
        suite, model, and all others: see `run`.

    Yields:
        A `Note` where the folder's files are not as they should be. Then, if anything is to do, `Advanced` at the start and after
        each weighing (each batch, where judges have a device of their own), and `Written` after each batch. At the end the results:
        all there is in the folder now.

    Raises:
        UsageError, RewardError, RunError: see `run`.
    """
    suite = suite if isinstance(suite, Suite) else load(suite, registry)
    if model is not None:
        suite = replace(suite, model=model if isinstance(model, str) else model.name)
    part, parts = _shard(shard or (1, 1))
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    folder = Path("runs") / suite.name if out is None else place(out)
    job = Job(suite, str(folder), device, dtype, compiled, batch_size, offline, workers, options=options or {})
    job = replace(job, judge_device=judge_device or "")
    if executor == "local" and workers == 1 and retries is None:
        yield from _alone(job, model, registry, (part, parts))
        return
    if workers < 1 or (retries or 0) < 0:
        raise UsageError(f"workers is {workers} and retries {retries}: expected at least 1 worker, and retries from 0")
    if not (model is None or isinstance(model, str)):
        raise UsageError(f"workers load their model themselves: give the name or folder of {model.name!r}, not the object")
    yield from _swept(job, executor, registry, (part, parts), 2 if retries is None else retries)


def _alone(
    job: Job, model: str | TextModel | None, registry: Registry | None, part: tuple[int, int]
) -> Iterator[Note | Advanced | Written | Results]:
    """Do in this process what is to do; see `run_steps`."""
    folder = place(job.folder)
    work = load_work(job.suite, model, registry, folder, job.compiled, job.batch_size, job.where(), job.judge_device)
    results.create(folder, identity(work, job.dtype))
    with results.rows_of(folder, part) as file:
        yield from map(Note, file.notes)
        before = results.read(folder)
        yield from map(Note, before.notes)
        there = {results.key(row) for row in before.rows}
        left = cells(work.suite, there, batch_of(job.suite, job.batch_size, job.device), part)
        if left:
            results.append_session(folder, session(job.device, job.batch_size, part))
            yield Advanced(0, sum(cell.particles for cell in left))
        yield from _do_overlapped(left, work, file) if job.overlaps else _do(left, work, file)
    yield results.read(folder)


def estimate(suite: Suite, model: str | None = None, **options: Unpack[Options]) -> Plan:
    """Estimate what `run` would take with these arguments; nothing is written.

    Rows that are in the folder say what one text of their method costs. Of the other methods a pilot makes one text each.

    Raises:
        UsageError, RewardError: see `run`; also where the folder holds another suite.
    """
    from fktext_evals.running.plan import plan

    suite = suite if model is None else replace(suite, model=model)
    folder = place(options.get("out") or Path("runs") / suite.name)
    device, batch_size = options.get("device", "cpu"), options.get("batch_size")
    judge = options.get("judge_device") or ""
    where = {"device": device, "dtype": options.get("dtype", "float32"), "offline": options.get("offline", False)}
    work = load_work(suite, None, options.get("registry"), folder, options.get("compiled", False), batch_size, where, judge)
    there: Sequence[Row] = ()
    if _begun(folder):
        results.same(folder, identity(work, str(where["dtype"])))
        there = results.read(folder).rows
    return plan(work, there, device, _shard(options.get("shard") or (1, 1)))


def _swept(
    job: Job, executor: str | Executor, registry: Registry | None, part: tuple[int, int], retries: int
) -> Iterator[Note | Advanced | Written | Results]:
    """Let an executor's workers do what is to do; see `run_steps`."""
    import torch

    made = find(executor, registry) if isinstance(executor, str) else executor
    job = replace(job, threads=max(1, torch.get_num_threads() // job.workers))
    folder, there = place(job.folder), set()
    if _begun(folder):
        before = results.read(folder)
        yield from map(Note, before.notes)
        there = {results.key(row) for row in before.rows}
    left = cells(job.suite, there, batch_of(job.suite, job.batch_size, job.device), part)
    if not left:  # a worker would say whether the folder holds this run
        results.create(folder, Worker(job).started.identity)
    done, total = 0, sum(cell.particles for cell in left)
    if left:
        yield Advanced(0, total)
    for told in sweep(job, made, left, part, retries):
        if isinstance(told, Cell):
            yield Advanced(done := done + told.particles, total)
        else:
            yield Note(told) if isinstance(told, str) else Written(told)
    yield results.read(folder)


def _begun(folder: Path) -> bool:
    """Say whether a folder holds a run."""
    with reaching(folder):
        return (folder / "run.json").exists()


def _do(left: Sequence[Cell], work: Work, file: RowFile | Objects) -> Iterator[Advanced | Written]:
    """Generate, judge and write."""
    methods = {method.key: method for method in work.suite.methods}
    done, total = 0, sum(cell.particles for cell in left)
    for cell in left:
        for item in work.made(methods[cell.method], cell.seed, frozenset(cell.wanted)):
            if isinstance(item, list):
                file.append(item)
                yield Written(item)
            else:
                yield Advanced(done + cell.particles * item.done / item.total, total)
        done += cell.particles


def _do_overlapped(left: Sequence[Cell], work: Work, file: RowFile | Objects) -> Iterator[Advanced | Written | Note]:
    """Generate one batch while another is judged, and write."""
    done, total, turns = 0, sum(cell.particles for cell in left), Turns()
    for cell, rows in overlapped(work, left, turns):
        file.append(rows)
        yield Written(rows)
        yield Advanced(done := done + cell.particles, total)
    if left:
        yield Note(turns.line())


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
