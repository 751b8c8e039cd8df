"""How long a suite takes on 1, 8 or 1,000 devices, computed from what units of work cost.

    fktext bench --model mdlm-owt -n 64 --length 128 --costs --reward ... > costs.json   # measured, on your device
    python benchmarks/flops.py > costs.json                                              # computed, of an H100
    python benchmarks/hours.py costs.json paper-toxicity paper-cola

Of each cell the calls, rows, head positions and judged texts are counted as the sampler is expected to need them, and multiplied
by their costs. Then `sweep.py` simulates workers that load, are lost and are slow at times. The batch size is that of 64, 256 and
1,024 with which the sweep ends first. Not counted: decoding texts, and what clones share and prompts save, so rows and judged texts
are a little too many.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from fktext.plugins.specs import parse_spec
from fktext.rewards import RewardContext
from fktext.smc.schedules import Every
from fktext.testing.costs import Cost
from fktext_evals import load
from fktext_evals.running.cells import cells
from fktext_evals.suites.suite import Method, Suite
from sweep import World, simulate

BATCHES = (64, 256, 1024)


@dataclass(frozen=True)
class Needs:
    """What populations need: calls and rows of the network, calls and positions of its head, calls and texts of each reward."""

    calls: float
    rows: float
    head_calls: float
    heads: float
    reward_calls: float
    rewards: float

    def __add__(self, other: Needs) -> Needs:
        return Needs(*(getattr(self, item.name) + getattr(other, item.name) for item in fields(Needs)))


def needs(method: Method, populations: int, length: int, steps: int) -> Needs:
    """Count what a batch of populations is expected to need."""
    asked = method.asked
    steered, particles = asked.method == "fk", populations * asked.particles
    if asked.method not in ("fk", "best-of-n", "base") or (steered and asked.look_ahead not in (None, "predictions")):
        raise SystemExit(
            f"method {method.name!r} is not one of base, best-of-n, and fk by predictions: its needs are not known here"
        )
    every = asked.resample_every or max(1, steps // 20)
    weighings = Every(every).weighings(steps) if steered else [steps]
    lone = steps * (1 - (1 - 1 / steps) ** length)  # distinct states of a particle
    windows = [end - start for start, end in zip([0, *weighings[:-1]], weighings, strict=True)]
    calls = sum(_most(window, lone / steps, particles) for window in windows)
    guessed = sum(length * (1 - k / steps) for k in weighings[:-1])
    asks = [particles * asked.x0_samples] * (len(weighings) - 1) + [particles]
    size = RewardContext.batch_size
    return Needs(
        calls=calls,
        rows=particles * (lone - 1) + populations,  # all begin with the same
        head_calls=calls + len(weighings) - 1,
        heads=particles * (length + guessed),
        reward_calls=sum(math.ceil(number / size) for number in asks),
        rewards=sum(asks),
    )


@cache
def _most(window: int, chance: float, particles: int) -> float:
    """Return the expected maximum of so many binomial numbers: each particle goes straight from one of its changes to the next."""
    below, expected = 0.0, 0.0
    for changes in range(window):
        below += math.comb(window, changes) * chance**changes * (1 - chance) ** (window - changes)
        expected += 1 - min(1.0, below) ** particles
    return expected


class Prices:
    """What units cost, from a file of `fktext bench --costs` or of `flops.py`."""

    def __init__(self, file: Path) -> None:
        told = json.loads(file.read_text(encoding="utf-8"))
        self.length, self.steps = told["length"], told["steps"]
        self.row, self.head = (Cost(**told[name]) for name in ("row", "head"))
        self.rewards = {name: Cost(**cost) for name, cost in told["rewards"].items()}
        self.about = told.get("computed") or f"measured: {told['model']}, {told['dtype']} on {told['device']}"

    def seconds(self, suite: Suite, method: Method, populations: int) -> float:
        """Return the seconds of a batch."""
        need = needs(method, populations, method.asked.length or self.length, method.asked.steps or self.steps)
        found = self.row.seconds(need.calls, need.rows) + self.head.seconds(need.head_calls, need.heads)
        found += sum(self._of(spec).seconds(need.reward_calls, need.rewards) for spec in suite.rewards)
        batches = math.ceil(populations / RewardContext.batch_size)
        return found + sum(self._of(judge.reward).seconds(batches, populations) for judge in suite.judges)

    def _of(self, spec: str) -> Cost:
        if (name := parse_spec(spec).label) not in self.rewards:
            raise SystemExit(f"the costs say nothing of {name!r}: measure it, too, with fktext bench --costs --reward {name!r}")
        return self.rewards[name]


def hours(suite: Suite, prices: Prices, workers: int, world: World, batch: int, seed: int = 0) -> tuple[float, int]:
    """Return how long a suite takes some workers, and how many cells that were."""
    methods = {method.key: method for method in suite.methods}
    made = [prices.seconds(suite, methods[cell.method], len(cell.wanted)) for cell in cells(suite, (), batch)]
    return simulate(made, workers, world, seed).seconds / 3600, len(made)


def total(suite: Suite, length: int, steps: int) -> Needs:
    """Add up what a suite needs, in batches of 64."""
    methods = {method.key: method for method in suite.methods}
    found = [needs(methods[cell.method], len(cell.wanted), length, steps) for cell in cells(suite, (), 64)]
    return sum(found, Needs(0, 0, 0, 0, 0, 0))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("costs", type=Path)
    parser.add_argument("suites", nargs="+")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 1000])
    parser.add_argument("--load", type=float, default=World.load, help="seconds until a worker has loaded model and judges")
    given = parser.parse_args(arguments)
    prices, world = Prices(given.costs), World(load=given.load)
    print(f"costs {prices.about}; hours computed\n")
    columns = ["suite", "texts", "network rows", "head positions", "judged on the way", *(f"hours on {n}" for n in given.workers)]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for name in given.suites:
        suite = load(name)
        asked = suite.methods[0].asked
        need = total(suite, asked.length or prices.length, asked.steps or prices.steps)
        best = [min((*hours(suite, prices, n, world, batch), batch) for batch in BATCHES) for n in given.workers]
        shown: list[Any] = [name, f"{suite.texts:,}", *(f"{number:.3g}" for number in (need.rows, need.heads, need.rewards))]
        shown += [f"{took:.3g} ({number} cells of {batch})" for took, number, batch in best]
        print(f"| {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
