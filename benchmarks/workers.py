"""What workers cost: `fktext eval run --workers 2` against two single processes that make half of the suite each, at the same time.

    python benchmarks/workers.py                       # some minutes on 2 cores, one thread each
    python benchmarks/workers.py toxicity-smoke --limit 2 --rounds 1

Both make the same texts, one after the other in each round, in the other order in the next. Seconds are from start to end, loading
included: those of the clock, for which nothing else may run meanwhile, and those of the processors, for all processes together.
Overhead is what workers take more, the median of all rounds.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from setting import hardware


def seconds(commands: list[list[str]]) -> tuple[float, float]:
    """Run commands at the same time, and return how long the last one took by the clock, and all of the processors."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    started, before = time.perf_counter(), processors()
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "fktext_cli", *command],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    for process in running:
        _, said = process.communicate()
        if process.returncode:
            raise SystemExit(said)
    return time.perf_counter() - started, processors() - before


def processors() -> float:
    """Return the seconds of the processors that all ended children, and theirs, have had."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", default="toxicity-quick")
    parser.add_argument("--model", help="in place of the suite's")
    parser.add_argument("--limit", type=int, help="prompts")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    few = ["--limit", str(given.limit)] if given.limit else []
    few += ["--model", given.model] if given.model else []
    run = ["eval", "run", given.suite, *few]
    print(f"{' '.join(run)}; {hardware('cpu')}\n")
    print("| round | two workers, s | two processes, s | overhead | of the processors: workers, s | processes, s | overhead |")
    print("|" + " --- |" * 7)
    overheads = []
    with tempfile.TemporaryDirectory() as root:
        for number in range(given.rounds):
            out = {name: str(Path(root) / f"{name}-{number}") for name in ("workers", "processes")}
            commands = {
                "workers": [[*run, "--workers", "2", "--threads", "2", "--out", out["workers"]]],
                "processes": [[*run, "--shard", f"{part}/2", "--threads", "1", "--out", out["processes"]] for part in (1, 2)],
            }
            took = {name: seconds(commands[name]) for name in sorted(commands, reverse=number % 2 == 0)}
            pairs = list(zip(took["workers"], took["processes"], strict=True))
            overheads.append([ours / theirs - 1 for ours, theirs in pairs])
            cells = [f"{ours:.1f} | {theirs:.1f} | {more:+.1%}" for (ours, theirs), more in zip(pairs, overheads[-1], strict=True)]
            print(f"| {number + 1} | {' | '.join(cells)} |", flush=True)
            for folder in out.values():
                shutil.rmtree(folder)
    clock, used = (median(column) for column in zip(*overheads, strict=True))
    print(f"\noverhead: {clock:+.1%} by the clock, {used:+.1%} of the processors, median of {given.rounds}")


if __name__ == "__main__":
    main()
