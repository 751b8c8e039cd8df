"""Choose how many threads a run takes: one a free core, because threads that wait for a busy core wait at every layer.

`fktext generate "The movie" --reward toxicity --particles 16`, four times in turns on 2 cores (AMD EPYC, torch 2.13) that other
work used now more and now less, seconds of generation and CPU seconds of all:

    1 thread     34, 26    31, 25
    2 threads   139, 59    23, 40

So a second thread wins some time where its core is idle, and costs a multiple of it where it is not; `benchmarks/threads.py`
measures it anywhere. The command line calls `settle`; the Python API leaves torch's threads alone. Their number changes no text.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from fktext.errors import UsageError

_DECIDED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE")  # by the user, or by torchrun for each of its processes
_SLACK = 0.25  # of a core: what a quiet machine does beside
_LEAST = 0.1  # seconds to watch: /proc/stat counts hundredths


class Choice(NamedTuple):
    """A number of threads, None to leave torch's as it is, and why."""

    threads: int | None
    why: str


class Reading(NamedTuple):
    """Hold when it was read, how many seconds the cores have been busy until then, and how many of these by this process."""

    clock: float
    busy: float
    own: float


def settle(wanted: int | None = None) -> Choice:
    """Set torch's threads: to the number wanted, else to that of free cores, unless the environment has decided.

    Args:
        wanted: threads; None chooses.

    Returns:
        What was chosen.

    Raises:
        UsageError: more threads are wanted than there are cores.
    """
    before = read()
    import torch  # takes a second, in which others show how busy they are

    most, cores = torch.get_num_threads(), os.cpu_count() or 1
    if wanted is not None and not 1 <= wanted <= cores:
        raise UsageError(f"--threads {wanted} is out of range: this machine has {cores} core{'s' * (cores != 1)}")
    choice = decided(wanted, os.environ)
    if choice is None:
        choice = choose(most, len(_cores()), _busy_since(before))
    if choice.threads is not None:
        torch.set_num_threads(choice.threads)
    return choice


def decided(wanted: int | None, environment: Mapping[str, str]) -> Choice | None:
    """Return what the user has decided, None for nothing.

    Example:
        >>> decided(2, {"OMP_NUM_THREADS": "1"})
        Choice(threads=2, why='--threads')
        >>> decided(None, {"OMP_NUM_THREADS": "1"})
        Choice(threads=None, why='OMP_NUM_THREADS is 1')
    """
    if wanted is not None:
        return Choice(wanted, "--threads")
    for name in _DECIDED:
        if environment.get(name):
            return Choice(None, f"{name} is {environment[name]}")
    return None


def choose(most: int, cores: int, busy: float | None) -> Choice:
    """Choose one thread for each free core, at least one and at most as many as torch takes by itself.

    Args:
        most: what torch takes by itself: the physical cores, mostly.
        cores: those that this process may run on.
        busy: how many of them others keep busy, on average; None where that cannot be told.

    Example:
        >>> choose(8, 8, 2.9)
        Choice(threads=5, why='others keep 2.9 of 8 cores busy')
    """
    if busy is None:
        return Choice(None, "this system does not say how busy it is")
    return Choice(max(1, min(most, int(cores - busy + _SLACK))), f"others keep {busy:.1f} of {cores} cores busy")


def read() -> Reading | None:
    """Read how busy the cores have been so far; None where there is no /proc."""
    try:
        text = Path("/proc/stat").read_text()
    except OSError:
        return None
    return Reading(time.monotonic(), busy_seconds(text, _cores()), time.process_time())


def busy_seconds(stat: str, cores: Collection[int]) -> float:
    """Return the seconds that these cores were not idle, of /proc/stat: all of its first eight columns but idle and iowait.

    Example:
        >>> busy_seconds("cpu 70 0 30 9 9 0 0 0 0 0\\ncpu0 50 1 20 900 5 0 3 1 7 0\\ncpu1 20 0 10 900 5 0 0 0 0 0\\n", [0])
        0.75
    """
    rows = (line.split() for line in stat.splitlines())
    ticks = {row[0]: [int(value) for value in row[1:9]] for row in rows if row and row[0].startswith("cpu")}
    counted = [ticks[f"cpu{core}"] for core in cores if f"cpu{core}" in ticks]
    return sum(sum(row) - sum(row[3:5]) for row in counted) / _ticks_per_second()


def _busy_since(before: Reading | None) -> float | None:
    """Count the cores that others kept busy since then; where there is no /proc, take the load of the last minute."""
    if before is None:
        return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    time.sleep(max(0.0, before.clock + _LEAST - time.monotonic()))
    after = read()
    if after is None:
        return None
    others = after.busy - before.busy - (after.own - before.own)
    return max(0.0, others / (after.clock - before.clock))


def _cores() -> list[int]:
    """Return the cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _ticks_per_second() -> int:
    return os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
