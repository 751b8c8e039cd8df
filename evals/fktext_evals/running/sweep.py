"""Drives a sweep: gives cells to an executor, writes their rows once, and tries again what failed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing

from fktext_evals.executors import Done, Executor, Failed, Job, Outcome, Started, Stopped
from fktext_evals.running import results
from fktext_evals.running.cells import Cell
from fktext_evals.running.places import Objects, place
from fktext_evals.running.results import Row, RowFile, RunError
from fktext_evals.suites.suite import counted

WAIT = 1.0  # seconds before the second attempt; then twice as long each time
LONGEST = 60.0
FUTILE = 8  # cells that fail before any succeeds, after which it is the sweep that is wrong and not the cells


class CellsError(RunError):
    """Says that cells of a sweep failed at every attempt; all other rows are there."""


def sweep(
    job: Job,
    executor: Executor,
    cells: Sequence[Cell],
    part: tuple[int, int],
    retries: int,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[list[Row] | str | Cell]:
    """Make cells.

    Args:
        job: what workers load.
        executor: where they are.
        cells: what is to do.
        part: which part of how many that is, for the names of files.
        retries: how often a cell that failed is tried again.
        sleep: waits so many seconds.

    Yields:
        The rows of a cell when they are in the folder and the cell itself; and lines to tell, of attempts that failed.

    Raises:
        CellsError: cells failed at every attempt; after all others were made.
        RunError: nothing works: every one of the first cells failed. Or the folder cannot be written.
        UsageError: what is asked for is wrong, or the folder holds another run.
    """
    left, total, attempt = list(cells), len(cells), 0
    with _Folder(job, part) as folder:
        while left:
            errors: dict[Cell, str] = dict.fromkeys(left, "the executor said nothing of it")
            with closing(_outcomes(executor, job, left)) as outcomes:
                for outcome in outcomes:
                    if isinstance(outcome, Stopped):
                        raise outcome.raised()
                    if isinstance(outcome, Started):
                        folder.check(outcome)
                    elif isinstance(outcome, Failed) and outcome.cell in errors:
                        errors[outcome.cell] = outcome.reason or outcome.error
                        yield f"note: {outcome.cell} failed: {outcome.error}"
                        folder.futile(outcome.error, total)
                    elif isinstance(outcome, Done) and outcome.cell in errors:  # else it is said twice
                        folder.add(outcome)
                        del errors[outcome.cell]
                        yield outcome.rows
                        yield outcome.cell
            left = [cell for cell in left if cell in errors]
            if left and attempt == retries:
                raise CellsError(_why(left, errors, total, attempt + 1))
            if left:
                pause = min(LONGEST, WAIT * 2**attempt)
                yield f"note: {counted(len(left), 'cell')} of {total} failed and will be tried again in {pause:g} s"
                sleep(pause)
            attempt += 1


def _outcomes(executor: Executor, job: Job, left: Sequence[Cell]) -> Generator[Outcome, None, None]:
    yield from executor.run(job, left)


class _Folder:
    """The folder of a sweep: made when the first worker says what it has loaded, and the same for all others."""

    def __init__(self, job: Job, part: tuple[int, int]) -> None:
        self._path, self._part, self._stack = place(job.folder), part, ExitStack()
        self._identity: object = None
        self._file: RowFile | Objects | None = None
        self._failed = self._made = 0

    def check(self, started: Started) -> None:
        """Make the folder, or refuse a worker that has loaded something else."""
        if started.identity != self._identity:
            results.create(self._path, started.identity)
            self._identity = started.identity
        if self._file is None:
            self._file = results.rows_of(self._path, self._part)
            self._stack.callback(self._file.close)
        results.append_session(self._path, {**started.session, "shard": "/".join(map(str, self._part))})

    def add(self, done: Done) -> None:
        """Write the rows of a cell."""
        if not done.written:
            if self._file is None:
                raise RunError(f"the executor made {done.cell} before it said what it has loaded")
            self._file.append(done.rows)
        self._made += 1

    def futile(self, error: str, total: int) -> None:
        """Stop where nothing works."""
        self._failed += 1
        if not self._made and self._failed >= FUTILE < total:
            raise RunError(f"the first {self._failed} cells all failed, so the sweep stops; the last: {error}")

    def __enter__(self) -> _Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def _why(left: Sequence[Cell], errors: dict[Cell, str], total: int, attempts: int) -> str:
    """Say how many cells failed and why, the most frequent reason first."""
    texts = sum(len(cell.wanted) for cell in left)
    reasons = Counter(errors[cell] for cell in left).most_common()
    said = "; ".join(f"{number}x {reason}" for reason, number in reasons[:3])
    more = f"; and {counted(len(reasons) - 3, 'other reason')}" if len(reasons) > 3 else ""
    return (
        f"{len(left)} of {counted(total, 'cell')} failed ({counted(texts, 'text')}) at each of {counted(attempts, 'attempt')}: "
        f"{said}{more}; all other rows are there, and the same command tries these again"
    )
