"""Jobs of Slurm, by submitit: each makes a share of the cells and writes their rows itself, so it needs no driver once it runs.

The run's folder is on a file system that the driver and all jobs see. A job that is preempted, or runs out of time, is queued again
and goes on with the cells whose rows are not there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fktext.errors import UsageError, one_line
from fktext_evals.executors import Done, Failed, Job, Outcome, Stopped, Worker
from fktext_evals.running import results
from fktext_evals.running.cells import Cell
from fktext_evals.running.places import is_remote
from fktext_evals.running.results import RowFile, RunError

POLL = 1.0  # seconds between two looks at the jobs
_MINUTES = 240  # of a job, unless "timeout_min" says otherwise; after that it is queued again


class Slurm:
    """Submits `job.workers` jobs: with "cuda" each has a GPU, and one for its judges where they are apart.

    Options: "cluster" is "slurm", or "local" for processes on this machine; "timeout_min" and "mem_gb" are of each job; all others
    go to sbatch, such as "partition" and "account".
    """

    def run(self, job: Job, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """See `Executor`."""
        shares = [list(cells[place :: job.workers]) for place in range(min(job.workers, len(cells)))]
        names = [f"rows-slurm-{place}-of-{len(shares)}.jsonl" for place in range(1, len(shares) + 1)]
        executor = _connect(job)
        running = []
        try:
            with executor.batch():  # one array
                for share, name in zip(shares, names, strict=True):
                    running.append((executor.submit(_share()(job, share, name)), share))
            while running:
                ended = [each for each in running if each[0].done()]
                running = [each for each in running if each not in ended]
                for submitted, share in ended:
                    yield from _told(job, submitted, share)
                time.sleep(POLL if running and not ended else 0)
        finally:
            for submitted, _ in running:
                submitted.cancel()


def make_share(job: Job, cells: Sequence[Cell], name: str) -> list[Outcome]:
    """Make cells whose rows are not there yet, and write each to a file of the run's folder.

    Args:
        job: what to load.
        cells: what is to do.
        name: of the file.

    Returns:
        What became of them; first, what has been loaded.
    """
    folder = Path(job.folder)
    try:
        worker = Worker(job)
        results.create(folder, worker.started.identity)
        said: list[Outcome] = [worker.started]
        with RowFile(folder / name) as file:
            there = _there(folder)
            for cell in cells:
                outcome: Outcome = worker.make(cell) if not there.issuperset(cell.keys) else Done(cell, [], written=True)
                if isinstance(outcome, Done) and not outcome.written:
                    file.append(outcome.rows)
                    outcome = Done(cell, outcome.rows, written=True)
                said.append(outcome)
    except Exception as error:
        return [Stopped.of(error)]
    return said


def _share() -> Any:
    """Make the class of what a job calls; submitit is imported only where it is asked for."""
    from submitit.helpers import Checkpointable

    class Share(Checkpointable):  # type: ignore[misc]  # submitit may not be there
        """Keeps what `make_share` is given; a job that is queued again calls it anew."""

        def __init__(self, *given: Any) -> None:
            self.given = given

        def __call__(self) -> list[Outcome]:
            return make_share(*self.given)

    return Share


def _told(job: Job, submitted: Any, share: Sequence[Cell]) -> Iterator[Outcome]:
    """Yield what a job said; where it was lost, what the folder says."""
    try:
        yield from submitted.result()
    except Exception as error:  # of submitit, or of what it reads
        there = _there(Path(job.folder)) if (Path(job.folder) / "run.json").exists() else set()
        reason = f"job {submitted.job_id} was lost: {one_line(error, 200)}"
        for cell in share:
            yield Done(cell, [], written=True) if there.issuperset(cell.keys) else Failed(cell, reason)


def _there(folder: Path) -> set[results.Key]:
    return {results.key(row) for row in results.read(folder).rows}


def _connect(job: Job) -> Any:
    """Make submitit's executor.

    Raises:
        UsageError: submitit is not installed, or an option is wrong. RunError: there is no Slurm here.
    """
    if is_remote(job.folder):
        raise UsageError(f"jobs of Slurm write to a folder that all of them see, not to {job.folder!r}")
    try:
        import submitit
    except ImportError as error:
        raise UsageError("--executor slurm needs submitit: pip install 'fktext[slurm]'") from error
    options = dict(job.options)
    try:
        executor = submitit.AutoExecutor(Path(job.folder) / "slurm", cluster=options.pop("cluster", "slurm"))
    except Exception as error:  # RuntimeError, ValueError
        raise RunError(f"Slurm cannot be used from this machine: {one_line(error)}") from error
    try:
        executor.update_parameters(
            name=f"fktext-{job.suite.name}",
            cpus_per_task=job.threads,
            **({"gpus_per_node": job.gpus} if job.gpus else {}),
            timeout_min=int(options.pop("timeout_min", _MINUTES)),
            **({"mem_gb": float(options.pop("mem_gb"))} if "mem_gb" in options else {}),
            **{f"slurm_{name}": value for name, value in options.items()},
        )
    except (NameError, ValueError, TypeError) as error:
        raise UsageError(f"slurm refuses an option: {one_line(error)}") from error
    return executor
