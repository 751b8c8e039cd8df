"""`fktext generate` alone, and beside a program that keeps every core busy, with the rule of `fktext.threads` and without it.

    python benchmarks/threads.py                    # README's first command, three times each
    python benchmarks/threads.py --repeats 1 -- "The movie" --reward length:words=8 --particles 4

Without the rule is `--threads` with all cores, as torch does by itself. Runs take turns, so that what else the machine does falls
on all alike; the least seconds of each are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

from setting import hardware

README = ["The movie", "--reward", "toxicity", "--particles", "16"]
BUSY = "import torch\na = torch.randn(400, 400)\nwhile True: a @ a"
DECIDED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LOCAL_WORLD_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("generate", nargs="*", default=README, help="of `fktext generate`, behind --")
    args = parser.parse_args()
    cores = str(os.cpu_count())
    runs = {(beside, rule): [] for beside in ("alone", "beside a busy program") for rule in ("rule", "all cores")}
    print(f"fktext generate {' '.join(args.generate)}; {hardware('cpu')}", flush=True)
    for _ in range(args.repeats):
        for (beside, rule), found in runs.items():
            with contextlib.nullcontext() if beside == "alone" else busy():
                found.append(seconds([*args.generate, *(["--threads", cores] if rule == "all cores" else [])]))
            print(f"{beside}, {rule}: {found[-1][0]:.1f} s, CPU {found[-1][1]:.1f} s, threads {found[-1][2]}", flush=True)
    least = {name: min(found)[0] for name, found in runs.items()}
    for beside in ("alone", "beside a busy program"):
        without, with_rule = least[beside, "all cores"], least[beside, "rule"]
        print(f"{beside}: {without:.1f} s with all cores, {with_rule:.1f} s with the rule: {without / with_rule:.2f}x")


@contextlib.contextmanager
def busy() -> Iterator[None]:
    """A program with a thread on every core, for as long as this lasts."""
    with subprocess.Popen([sys.executable, "-c", BUSY], env=environment()) as other:
        time.sleep(5)  # torch is imported
        try:
            yield
        finally:
            other.kill()


def seconds(arguments: list[str]) -> tuple[float, float, str]:
    """Seconds of a run, CPU seconds, and its number of threads."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "fktext_cli", "generate", "--verbose", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(done.stderr)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, spent, re.findall(r"^threads: (\d+)", done.stderr, re.MULTILINE)[0]


def environment() -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if key not in DECIDED}


if __name__ == "__main__":
    main()
