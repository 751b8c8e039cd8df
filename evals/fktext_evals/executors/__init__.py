"""Where the cells of a sweep are made: an executor takes them, and yields their rows as they come.

`local` starts processes on this machine; `ray` and `slurm` are in files of their own, and plugins bring more:

    @hookimpl
    def fktext_register_parts(register):
        register("executor", "dask", "my_package.dask:Dask", summary="workers of a Dask cluster")

`my_package.dask.Dask()` is an `Executor`. It starts a `Worker` on each of its machines, which loads model and judges once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from fktext.errors import FktextError, UsageError, one_line, unknown_name
from fktext_evals.running.cells import Cell
from fktext_evals.running.places import place
from fktext_evals.running.results import Row, RunError
from fktext_evals.suites.suite import Suite

if TYPE_CHECKING:
    from fktext.plugins.registry import Registry

BUILT_IN = {
    "local": "fktext_evals.executors.local:Local",
    "ray": "fktext_evals.executors.ray:Ray",
    "slurm": "fktext_evals.executors.slurm:Slurm",
}


@dataclass(frozen=True)
class Job:
    """Says what workers load, and how many there are.

    Attributes:
        suite: what is run.
        folder: the run's, where images are written.
        device, dtype, compiled, batch_size, offline: see `fktext_evals.run`. Of "cuda" each worker has a GPU of its own.
        judge_device: of rewards and judges; "" puts them beside the model.
        workers: how many.
        threads: CPU threads of each.
        options: of the executor, by name, such as "address" of Ray.
    """

    suite: Suite
    folder: str
    device: str = "cpu"
    dtype: str = "float32"
    compiled: bool = False
    batch_size: int | None = None
    offline: bool = False
    workers: int = 1
    threads: int = 1
    options: Mapping[str, str] = field(default_factory=dict)
    judge_device: str = ""

    @property
    def overlaps(self) -> bool:
        """Say whether one batch can be judged while another is sampled: rewards and judges have a device of their own.

        A compiled model stays in one thread, as CUDA graphs must.
        """
        model, judges = ("cuda:0" if device == "cuda" else device for device in (self.device, self.judge_device or self.device))
        return model != judges and not self.compiled

    @property
    def gpus(self) -> int:
        """Count the GPUs that a worker of Ray or Slurm asks for: with "cuda:1" for judges a second."""
        return (self.device == "cuda") * (1 + (self.judge_device not in ("", "cuda", "cuda:0", "cpu")))

    def where(self, device: str | None = None) -> dict[str, Any]:
        """Return where a model is loaded, and how: on the job's device, or another."""
        return {"device": device or self.device, "dtype": self.dtype, "offline": self.offline}


@dataclass(frozen=True)
class Started:
    """Tells that a worker has loaded everything: `identity` says what, as run.json does; `session` where it is."""

    identity: dict[str, Any]
    session: dict[str, Any]


@dataclass(frozen=True)
class Done:
    """Brings the rows of a cell. `written` says that they are in the run's folder already."""

    cell: Cell
    rows: list[Row]
    written: bool = False


@dataclass(frozen=True)
class Failed:
    """Tells why a cell has no rows: `error` in full, `reason` without what is of this cell alone, so that they can be counted."""

    cell: Cell
    error: str
    reason: str = ""


@dataclass(frozen=True)
class Stopped:
    """Tells why no cell can have rows: the suite, the model or a judge cannot be loaded, say."""

    kind: str
    error: str

    @classmethod
    def of(cls, error: BaseException) -> Stopped:
        """Tell an error of `Worker`."""
        if isinstance(error, UsageError):
            return cls("usage", str(error))
        return cls("run", str(error) if isinstance(error, FktextError) else f"{type(error).__name__}: {one_line(error)}")

    def raised(self) -> FktextError:
        """Return the error to raise where the sweep is driven."""
        return UsageError(self.error) if self.kind == "usage" else RunError(self.error)


Outcome = Started | Done | Failed | Stopped


@runtime_checkable
class Executor(Protocol):
    """Makes cells somewhere."""

    def run(self, job: Job, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """Make cells with `job.workers` workers, and yield what becomes of each, in any order.

        A `Started` of every worker comes before its rows. A cell is given to one worker at a time. What its worker raises, or
        the loss of it, is a `Failed` of that cell alone, and other cells go on; the caller tries it again by calling once more.
        A cell that nothing is said of counts as failed. Closing the iterator ends all workers.
        """
        ...


class Worker:
    """Makes cells in this process, with a model and judges that are loaded once.

    Args:
        job: what to load.
        device: in place of the job's.

    Raises:
        FktextError: something cannot be loaded. Anything printed meanwhile goes to stderr.
    """

    def __init__(self, job: Job, device: str | None = None) -> None:
        import torch

        from fktext_evals.running.session import session
        from fktext_evals.running.work import identity, load_work

        torch.set_num_threads(job.threads)
        device = device or job.device
        with redirect_stdout(sys.stderr):
            self._work = load_work(
                job.suite, None, None, place(job.folder), job.compiled, job.batch_size, job.where(device), job.judge_device
            )
        self._methods = {method.key: method for method in self._work.suite.methods}
        self.started = Started(identity(self._work, job.dtype), session(device, job.batch_size, (1, 1)))

    def make(self, cell: Cell) -> Done | Failed:
        """Return the rows of a cell, or why there are none."""
        try:
            with redirect_stdout(sys.stderr):
                found = list(self._work.made(self._methods[cell.method], cell.seed, frozenset(cell.wanted)))
        except FktextError as error:
            cause = error.__cause__
            return Failed(cell, one_line(error), f"{type(cause).__name__}: {one_line(cause)}" if cause else "")
        except Exception as error:
            return Failed(cell, f"{type(error).__name__}: {one_line(error)}")
        return Done(cell, [row for item in found if isinstance(item, list) for row in item])


def check(executor: Executor, job: Job, cells: Sequence[Cell]) -> None:
    """Check that an executor keeps its contract: that it makes every cell once, as this process does.

    Args:
        executor: to check.
        job: what its workers load; this process loads it, too.
        cells: at least two, each of which can be made.

    Raises:
        AssertionError: it does not; says in what.
    """
    own, done, started = Worker(job), dict[Cell, list[Row]](), 0
    for outcome in executor.run(job, cells):
        if isinstance(outcome, Started):
            started += 1
            assert outcome.identity == own.started.identity, "a worker has loaded something else"
            continue
        assert isinstance(outcome, Done), f"a cell that can be made was not: {outcome}"
        assert started, f"rows of {outcome.cell} came before any worker said what it has loaded"
        assert outcome.cell not in done, f"{outcome.cell} was made twice"
        done[outcome.cell] = outcome.rows
    assert done.keys() == set(cells), f"{len(cells) - len(done)} of {len(cells)} cells are missing"
    for cell, rows in done.items():
        made = own.make(cell)
        assert isinstance(made, Done), f"this process cannot make {cell}: {made}"
        pairs = zip(made.rows, rows, strict=True)
        assert all({**ours, "seconds": 0} == {**theirs, "seconds": 0} for ours, theirs in pairs), f"rows of {cell} differ"


def find(name: str, registry: Registry | None = None) -> Executor:
    """Make the executor of a name: "local", "ray", "slurm", or one of a plugin, bare or as `distribution:name`.

    Args:
        name: of it.
        registry: of plugins; by default that of the installed ones.

    Raises:
        UsageError: unknown, brought by several distributions, or what it needs is not installed.
        PluginError: a plugin's cannot be made.
    """
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        made: Executor = getattr(importlib.import_module(module), attribute)()
        return made
    from fktext.plugins import load_plugins

    entries = [entry for entry in (registry or load_plugins()).parts if entry.kind == "executor"]
    own = [entry for entry in entries if name in (entry.name, entry.qualified)]
    if len(own) > 1:
        raise UsageError(f"executor {name!r} comes from several distributions: write {' or '.join(e.qualified for e in own)}")
    if not own:
        raise unknown_name("executor", name, [*BUILT_IN, *(entry.name for entry in entries)])
    plugged: Executor = own[0].create()
    return plugged
