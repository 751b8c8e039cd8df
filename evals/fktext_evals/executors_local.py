"""Processes on this machine, one cell at a time each; one that dies takes its cell with it, and another takes its place."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from fktext_evals.cells import Cell
from fktext_evals.executors import Failed, Job, Outcome, Started, Stopped, Worker

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
    context = multiprocessing.get_context("spawn")  # a fork would share torch's threads, and a GPU cannot be shared so at all
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, job, number, cell), name=f"fktext-worker-{number}", daemon=True)
    process.start()
    theirs.close()  # so that its end closes when it dies
    return ours, _Hand(process, cell)


def _serve(connection: Connection, job: Job, number: int, cell: Cell | None) -> None:
    """Make cells until there are no more, or the driver is gone; an interrupt is the driver's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
