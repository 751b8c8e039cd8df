"""Measure what it costs to watch a run: CPU seconds with the log, and with the terminal's view, over those of the plain run.

    python benchmarks/watching.py

Each seed runs plain (with its progress bar), with `--trace run.jsonl` and with `--watch`, in turn, in one process; stderr is a
pseudo-terminal whose output nobody draws. Printed are the medians over seeds, the ratios of the sums, and, which a busy machine
disturbs less, what share of its seconds a run spends in making events, writing them and drawing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import os
import pty
import statistics
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fktext
from fktext import runs
from fktext.texts.generate import generate
from fktext_cli import live, tracing
from fktext_cli.progress import Bar, follow

KINDS = ("plain", "log", "view")
WATCHING = ((runs._Watcher, "add"), (tracing.Trace, "see"), (tracing.Trace, "add"), (live.View, "see"))


class Stopwatch:
    """Count the CPU seconds that some methods take, whoever calls them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        for owner, name in WATCHING:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*given: Any) -> Any:
            started = time.process_time()
            try:
                return method(*given)
            finally:
                self.seconds += time.process_time() - started

        return timed


def seconds(kind: str, model: fktext.TextModel, settings: fktext.Settings, path: Path) -> float:
    """Run one population, and return the CPU seconds that it took."""
    term = fktext.load_plugins().create("sentiment")
    path.unlink(missing_ok=True)
    trace = tracing.Trace(path if kind == "log" else None, {"seed": settings.seed}, "best")
    view = live.View("watched") if kind == "view" else Bar("plain")
    started = time.process_time()
    with trace:

        def take(population: fktext.Population) -> fktext.Population:
            trace.add(population)
            return population

        found = generate(model, [term], ["The movie"], settings, watch=kind != "plain")
        follow(found, take, 1, "written", see=trace.see, view=view)
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--particles", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=12)
    asked = parser.parse_args()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 160, 0, 0))
    reader = subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    model, spent = fktext.load("tiny-mdlm"), {kind: [] for kind in KINDS}
    watching, stopwatch = dict.fromkeys(KINDS, 0.0), Stopwatch()
    with tempfile.TemporaryDirectory() as folder, os.fdopen(theirs, "w") as terminal, contextlib.redirect_stderr(terminal):
        for seed in range(-1, asked.seeds):
            turn = seed % len(KINDS)
            for kind in (*KINDS[turn:], *KINDS[:turn]):
                settings = replace(fktext.Settings(particles=asked.particles), seed=max(seed, 0))
                before = stopwatch.seconds
                took = seconds(kind, model, settings, Path(folder) / "run.jsonl")
                if seed >= 0:  # the first turn warms up
                    spent[kind].append(took)
                    watching[kind] += stopwatch.seconds - before
    reader.kill()
    for kind in KINDS:
        ratios = [one / plain for one, plain in zip(spent[kind], spent["plain"], strict=True)]
        total = sum(spent[kind]) / sum(spent["plain"])
        share = watching[kind] / sum(spent[kind])
        print(
            f"{kind}: {statistics.median(spent[kind]):.3f} s, ratio {statistics.median(ratios):.4f}, of the sums {total:.4f}; "
            f"watching itself {share:.2%}"
        )


if __name__ == "__main__":
    main()
