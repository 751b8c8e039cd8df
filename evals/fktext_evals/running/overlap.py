"""Samples and judges at the same time, where model and judges have a device each.

A population needs its rewards before it goes on. So two batches are at work: one that asks for rewards lets the other have the
model until it has them. Finished texts are judged while the model writes the next ones. Rows are those of one batch after the
other, in the same order.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fktext_evals.running.cells import Cell
from fktext_evals.running.results import Row
from fktext_evals.running.work import Work

if TYPE_CHECKING:  # these import torch
    from fktext.population import Population


class Device:
    """What one thread has at a time.

    Attributes:
        busy: seconds that threads have had it.
        waits: how often a thread found it taken.
    """

    def __init__(self) -> None:
        self.busy, self.waits = 0.0, 0
        self._lock, self._since = threading.Lock(), 0.0

    def take(self) -> float:
        """Wait until it is free, and return the seconds that took."""
        asked = time.perf_counter()
        taken = not self._lock.acquire(blocking=False)
        if taken:
            self._lock.acquire()
        self.waits, self._since = self.waits + taken, time.perf_counter()
        return self._since - asked

    def give(self) -> None:
        """Let others have it."""
        self.busy += time.perf_counter() - self._since
        self._lock.release()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Have it for a block."""
        self.take()
        try:
            yield
        finally:
            self.give()


class Turns:
    """Says whose turn it is.

    Attributes:
        model, judges: the two devices.
    """

    def __init__(self) -> None:
        self.model, self.judges = Device(), Device()
        self._started, self._own = time.perf_counter(), threading.local()

    @property
    def waited(self) -> float:
        """How many seconds this thread has waited for its turns."""
        return getattr(self._own, "waited", 0.0)

    @contextmanager
    def judging(self) -> Iterator[None]:
        """Have the judges for a block, and not the model, which this thread has before and after it."""
        self.model.give()
        waited = 0.0
        try:
            waited = self.judges.take()
            try:
                yield
            finally:
                self.judges.give()
        finally:
            self._own.waited = self.waited + waited + self.model.take()

    def line(self) -> str:
        """Say how busy they were."""
        seconds = time.perf_counter() - self._started
        model, judges = (device.busy / seconds for device in (self.model, self.judges))
        return f"note: in {seconds:.1f} s the model was busy {model:.0%} of the time, rewards and judges {judges:.0%}"


class _InTurn:
    """A reward that has the judges' device while it is computed."""

    def __init__(self, reward: Any, turns: Turns) -> None:
        self._reward, self._turns = reward, turns

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reward, name)

    def score(self, samples: Sequence[Any]) -> Any:
        """Score as the reward does."""
        with self._turns.judging():
            return self._reward.score(samples)


def overlapped(work: Work, cells: Sequence[Cell], turns: Turns) -> Generator[tuple[Cell, list[Row]], None, None]:
    """Make cells, and yield the rows of each in the order of the cells. Closed early, it waits until what is sampled is weighed.

    Args:
        work: what makes rows.
        cells: what is to do.
        turns: counts.

    Raises:
        FktextError: a cell failed, after those before it were yielded.
    """
    waiting: deque[tuple[Cell, Future[list[list[Population]]]]] = deque()
    left = deque(cells)
    methods, lanes = {method.key: method for method in work.suite.methods}, _Lanes(work, turns)
    with ThreadPoolExecutor(work.at_once) as pool, closing(lanes):

        def go_on() -> None:
            if left:
                waiting.append((left[0], pool.submit(lanes.sample, left.popleft())))

        for _ in range(work.at_once):
            go_on()
        while waiting:
            cell, future = waiting.popleft()
            batches = future.result()
            go_on()
            with turns.judges.taken():
                rows = [row for batch in batches for row in work.rows(methods[cell.method], cell.seed, batch)]
            yield cell, rows


class _Lanes:
    """What threads do that sample."""

    def __init__(self, work: Work, turns: Turns) -> None:
        from fktext.rewards import Scorer

        terms = [replace(term, reward=_InTurn(term.reward, turns)) for term in work.rewards.terms]
        self._work, self._turns, self._ended = replace(work, rewards=Scorer(terms)), turns, False
        self._methods = {method.key: method for method in work.suite.methods}

    def sample(self, cell: Cell) -> list[list[Population]]:
        """Return the populations of a cell in their batches; their seconds are without those of others' turns."""
        from fktext.smc.ledger import Ledger

        before, batches, method = self._turns.waited, [], self._methods[cell.method]
        with self._turns.model.taken(), closing(self._work.sampled(method, cell.seed, frozenset(cell.wanted))) as items:
            for item in items:
                if isinstance(item, list):
                    batches.append(item)
                if self._ended:
                    break
        others = Ledger(seconds=(before - self._turns.waited) / len(cell.wanted))
        return [[replace(each, ledger=each.ledger + others) for each in batch] for batch in batches]

    def close(self) -> None:
        """Stop at the next weighing."""
        self._ended = True
