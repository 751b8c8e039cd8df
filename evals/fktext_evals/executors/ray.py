"""Actors of Ray, one cell at a time each: on the cluster that `address` names, else on one that is started here for the run."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from fktext.errors import UsageError, one_line
from fktext_evals.executors import Failed, Job, Outcome, Started, Stopped, Worker
from fktext_evals.running.cells import Cell
from fktext_evals.running.results import RunError

_OPTIONS = ("address",)


class Ray:
    """Runs `job.workers` actors: with "cuda" each has a GPU, and one for judges that are apart; else `job.threads` CPUs."""

    def run(self, job: Job, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """See `Executor`."""
        if strange := job.options.keys() - set(_OPTIONS):
            raise UsageError(f"ray has no option {min(strange)!r}; it takes {', '.join(_OPTIONS)}")
        ray = _connect(job)
        try:
            yield from _Actors(ray, job, cells).outcomes()
        finally:
            ray.shutdown()


class _Actors:
    """The actors of a run, each with what it was asked last."""

    def __init__(self, ray: Any, job: Job, cells: Sequence[Cell]) -> None:
        gpus = {"num_gpus": job.gpus} if job.gpus else {}
        self._ray, self._job, self._waiting = ray, job, deque(cells)
        self._kind = ray.remote(num_cpus=0 if gpus else job.threads, **gpus)(_Actor)
        self._asked: dict[Any, tuple[Any, Cell]] = {}

    def outcomes(self) -> Iterator[Outcome]:
        """Yield what becomes of the cells."""
        while self._waiting or self._asked:
            while self._waiting and len(self._asked) < self._job.workers:
                actor = self._kind.remote(self._job)
                self._asked[actor.start.remote()] = (actor, self._waiting.popleft())
            [ready], _ = self._ray.wait(list(self._asked), num_returns=1)
            actor, cell = self._asked.pop(ready)
            try:
                outcome: Outcome = self._ray.get(ready)
            except self._ray.exceptions.RayError as error:
                yield Failed(cell, f"its actor is gone: {one_line(error)}", f"its actor is gone: {type(error).__name__}")
                with suppress(Exception):
                    self._ray.kill(actor)
                continue
            yield outcome
            if isinstance(outcome, Stopped):
                return
            if isinstance(outcome, Started):
                self._asked[actor.make.remote(cell)] = (actor, cell)
            elif self._waiting:
                cell = self._waiting.popleft()
                self._asked[actor.make.remote(cell)] = (actor, cell)
            else:
                self._ray.kill(actor)


class _Actor:
    """Holds a worker in a process of Ray."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._worker: Worker | None = None

    def start(self) -> Outcome:
        """Load everything, and say what."""
        try:
            self._worker = Worker(self._job)
        except Exception as error:
            return Stopped.of(error)
        return self._worker.started

    def make(self, cell: Cell) -> Outcome:
        """Make a cell."""
        assert self._worker is not None
        return self._worker.make(cell)


def _connect(job: Job) -> Any:
    """Join a cluster, or start one on this machine that ends with the run.

    Raises:
        UsageError: Ray is not installed. RunError: the cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise UsageError("--executor ray needs Ray: pip install 'fktext[ray]'") from error
    address = job.options.get("address")
    here: dict[str, Any] = {}
    if not address:  # what is imported here is imported there; rows are small
        paths = {"env_vars": {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}}
        cpus, gpus = job.workers * job.threads, {"num_gpus": job.workers * job.gpus} if job.gpus else {}
        here = {"num_cpus": cpus, **gpus, "include_dashboard": False, "object_store_memory": 2**27, "runtime_env": paths}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except Exception as error:  # ConnectionError, RuntimeError, ValueError ... as it likes
        raise RunError(f"no cluster of Ray can be used at {address or 'this machine'}: {one_line(error)}") from error
    return ray
