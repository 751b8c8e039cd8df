"""How long a sweep takes with many workers that fail and straggle, simulated from seconds that were measured.

    python benchmarks/sweep.py runs/toxicity-quick --workers 1 8 1000 --texts 100000

The run gives the measured seconds of a text of each method. A suite of so many texts, in the same shares of methods, is cut into
cells as `fktext eval run` cuts it; workers take one cell after the other, are lost at random moments (and come back after they
have loaded everything again), and some are slow. What is printed is computed, but for the seconds: nobody has run a thousand
workers here.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from fktext_evals import read


@dataclass(frozen=True)
class World:
    """What happens to workers.

    Attributes:
        load: seconds until a worker that starts has loaded model and judges.
        lifetime: mean hours until a worker is lost.
        slow: share of workers that are slow, by `factor`.
        speed: how many times faster a worker is than the one that was measured.
    """

    load: float = 60.0
    lifetime: float = 24.0
    slow: float = 0.05
    factor: float = 3.0
    speed: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """How a sweep went: seconds until the last cell, worker-seconds of lost cells, how many workers were lost, how busy all are."""

    seconds: float
    lost_seconds: float
    losses: int
    busy: float


def simulate(cells: Sequence[float], workers: int, world: World, seed: int) -> Outcome:
    """Simulate a sweep.

    Args:
        cells: seconds of each on the measured machine, in the order in which they are given out.
        workers: how many.
        world: what happens to them.
        seed: of what happens.
    """
    chance = random.Random(seed)
    waiting = list(reversed(cells))
    pace = [(world.factor if chance.random() < world.slow else 1.0) / world.speed for _ in range(workers)]
    end_of_life = [chance.expovariate(1 / (3600 * world.lifetime)) for _ in range(workers)]
    free = [(world.load, number) for number in range(workers)]  # when each is free, the earliest first
    heapq.heapify(free)
    last = lost = made = 0.0
    losses = 0
    retried: list[tuple[float, float]] = []  # cells that were lost: when that was noticed, and their seconds
    while waiting or retried:
        now, number = heapq.heappop(free)
        if not waiting and retried and retried[0][0] > now:  # a lost cell is made again after all others
            now = retried[0][0]
        seconds = waiting.pop() if waiting else heapq.heappop(retried)[1]
        end = now + seconds * pace[number]
        if end > end_of_life[number]:
            died = max(now, end_of_life[number])
            lost, losses = lost + died - now, losses + 1
            heapq.heappush(retried, (died, seconds))
            end_of_life[number] = died + world.load + chance.expovariate(1 / (3600 * world.lifetime))
            heapq.heappush(free, (died + world.load, number))
            continue
        made += end - now
        last = max(last, end)
        heapq.heappush(free, (end, number))
    return Outcome(last, lost, losses, made / (last * workers) if last else 0.0)


def cells_of(folder: Path, texts: int, batch: int) -> tuple[list[float], float]:
    """Return the seconds of the cells of a suite of so many texts, and of one text on average, by a run's rows."""
    results = read(folder)
    per_method = texts // len(results.suite.methods)
    cells, means = [], []
    for method in results.suite.methods:
        rows = results.populations(method.key)
        if not rows:
            raise SystemExit(f"{folder} has no rows of {method.name} at {method.settings.particles} particles")
        mean, size = fmean(row["seconds"] for row in rows), max(1, batch // method.settings.particles)
        means.append(mean)
        whole, rest = divmod(per_method, size)
        cells += [mean * size] * whole + [mean * rest] * (rest > 0)
    return cells, fmean(means)


def main() -> None:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run")
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 1000])
    parser.add_argument("--batch", type=int, default=64, help="particles of a cell")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times faster a worker is than the measured machine")
    parser.add_argument("--lifetime", type=float, default=World.lifetime, help="mean hours until a worker is lost")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    cells, mean = cells_of(given.run, given.texts, given.batch)
    print(
        f"measured: {mean:.3g} s a text ({given.run}); computed: {len(cells)} cells, {sum(cells) / 3600:.3g} hours of that machine"
    )
    print("| workers | hours | times the ideal | busy | workers lost | of the work done twice |")
    print("| --- | --- | --- | --- | --- | --- |")
    for workers in given.workers:
        world = World(speed=given.speed, lifetime=given.lifetime)
        found = simulate(cells, workers, world, given.seed)
        ideal = sum(cells) / workers / given.speed
        again = found.lost_seconds / (sum(cells) / given.speed)
        cost = f"{found.seconds / 3600:.3g} | {found.seconds / ideal:.2f} | {found.busy:.0%}"
        print(f"| {workers} | {cost} | {found.losses} | {again:.2%} |")


if __name__ == "__main__":
    main()
