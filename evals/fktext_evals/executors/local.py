"""Processes on this machine, one cell at a time each; one that dies takes its cell with it, and another takes its place."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess

from fktext_evals.executors import Failed, Job, Outcome, Started, Stopped, Worker
from fktext_evals.running.cells import Cell

_GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # what a pipe says whose other end has died


@dataclass
class _Hand:
    """A worker as its driver sees it: its process, and the cell it is at."""

    process: BaseProcess
    cell: Cell


class Local:
    """Runs `job.workers` processes; with "cuda" they take the GPUs in turn."""

    def run(self, job: Job, cells: Sequence[Cell]) -> Iterator[Outcome]:
        """See `Executor`."""
        waiting, numbers = deque(cells), count()
        hands: dict[Connection, _Hand] = {}
        try:
            while waiting or hands:
                while waiting and len(hands) < job.workers:
                    connection, hand = _start(job, next(numbers), waiting.popleft())
                    hands[connection] = hand
                for ready in wait(list(hands)):
                    assert isinstance(ready, Connection)
                    yield from self._hear(ready, hands, waiting)
        finally:
            for connection, hand in hands.items():
                connection.close()
                hand.process.kill()
                hand.process.join()

    def _hear(self, connection: Connection, hands: dict[Connection, _Hand], waiting: deque[Cell]) -> Iterator[Outcome]:
        """Take what a worker says, and give it the next cell; where it is gone, take it out."""
        hand = hands[connection]
        try:
            outcome = _received(connection)
            yield outcome
            if isinstance(outcome, Started | Stopped):
                return
            if waiting:
                hand.cell = waiting.popleft()
                connection.send(hand.cell)
                return
            with suppress(*_GONE):
                connection.send(None)
            hand.process.join()
        except _GONE:
            hand.process.join()
            code = hand.process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            yield Failed(hand.cell, f"its worker ended with {how}")
        connection.close()
        del hands[connection]


def _received(connection: Connection) -> Outcome:
    """Return what a worker says.

    Raises:
        EOFError: it is gone, perhaps in the middle of saying it.
    """
    try:
        outcome: Outcome = connection.recv()
    except OSError as error:  # "got end of file during message" has no class of its own
        raise EOFError from error
    return outcome


def _start(job: Job, number: int, cell: Cell) -> tuple[Connection, _Hand]:
    """Start a worker on its first cell."""
    context = _context()
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, job, number, cell, dict(os.environ)), name=f"fktext-worker-{number}", daemon=True
    )
    process.start()
    theirs.close()  # so that its end closes when it dies
    return ours, _Hand(process, cell)


def _context() -> ForkServerContext | SpawnContext:
    """Say how workers begin: as forks of a process that has imported torch and transformers and done nothing else.

    Not as forks of this one, whose threads and GPU cannot be shared. Elsewhere than on Linux, where libraries of the system may not
    stand a fork, each begins from nothing.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["fktext_evals.running.work", "transformers.modeling_utils"])
    return context


def _serve(connection: Connection, job: Job, number: int, cell: Cell | None, environment: Mapping[str, str]) -> None:
    """Make cells until there are no more, or the driver is gone; an interrupt is the driver's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)  # the driver's now, not as it was when its first worker began
    with suppress(*_GONE):
        try:
            worker = Worker(job, _device(job.device, number))
        except Exception as error:
            connection.send(Stopped.of(error))
            return
        connection.send(worker.started)
        while cell is not None:
            connection.send(worker.make(cell))
            cell = connection.recv()
    sys.stderr.flush()


def _device(device: str, number: int) -> str:
    if device != "cuda":
        return device
    import torch

    return f"cuda:{number % torch.cuda.device_count()}"
