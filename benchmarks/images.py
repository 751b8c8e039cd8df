"""What the image adapter itself costs: the share of a steered run outside the pipeline, its VAE and the reward.

    python benchmarks/images.py --model tiny-digits --particles 64

The same pipeline runs alone and steered with lambda 0, in turns. What a steered run takes beyond the plain one, less the time in
decoding and in the reward, is the adapter's own. Both are CPU seconds of this process, so that other programs count for less; on a
GPU use --wall.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from fktext.images.generate import call_options
from fktext.images.pipelines import load
from fktext.images.process import DiffusersProcess, Image
from fktext.rewards import Scorer, Weighted
from fktext.smc.noise import Noise, population_key
from fktext.smc.schedules import Every
from fktext.smc.steer import Plan, steer
from setting import hardware


class Brightness:
    """A reward that costs little; its time is taken off all the same."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock, self.seconds = clock, 0.0

    def score(self, samples: list[Image]) -> torch.Tensor:
        started = self.clock()
        values = torch.stack([image.pixels for image in samples]).double().mean((1, 2, 3))
        self.seconds += self.clock() - started
        return values


class Timed(DiffusersProcess):
    """Keeps the time that decoding took."""

    clock: Callable[[], float]
    seconds = 0.0

    def decode(self, x0: object) -> list[Image]:
        started = self.clock()
        images = super().decode(x0)
        self.seconds += self.clock() - started
        return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny-digits")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--scheduler")
    parser.add_argument("--particles", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--every", type=int, default=10, help="steps between weighings")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--wall", action="store_true")
    args = parser.parse_args()
    clock = time.perf_counter if args.wall else time.process_time
    pipeline, _ = load(args.model, device=args.device, scheduler=args.scheduler, offline=True)
    noise = Noise.of([population_key(0, "benchmark")], args.particles)
    plain, steered, own = [], [], []
    for repeat in range(args.repeats + 1):  # the first warms up
        process = Timed(pipeline, [args.prompt], args.particles, args.steps, **call_options(pipeline))
        process.clock, reward = clock, Brightness(clock)
        plan = Plan(args.particles, Every(args.every), lam=0.0, ess_threshold=1.1)
        seconds = {}
        for which in ("plain", "steered") if repeat % 2 else ("steered", "plain"):  # neither has the warmer cache
            started = clock()
            if which == "plain":
                pipeline(**process.call_options(noise))
            else:
                steer(process, Scorer([Weighted("brightness", reward)]), noise, plan)
            seconds[which] = clock() - started
        if repeat:
            plain.append(seconds["plain"])
            steered.append(seconds["steered"])
            own.append((seconds["steered"] - seconds["plain"] - process.seconds - reward.seconds) / seconds["plain"])
    kind = "wall" if args.wall else "CPU"
    print(hardware(args.device))
    print(f"{args.model}, {args.particles} particles, {args.steps} steps, weighed every {args.every}, {args.repeats} repeats")
    print(f"pipeline alone          {statistics.median(plain):8.3f} {kind} seconds")
    print(f"steered, all included   {statistics.median(steered):8.3f} {kind} seconds")
    low, middle, high = (100 * share for share in statistics.quantiles(own, n=4))
    print(f"the adapter's own share {middle:8.2f} %, the middle half of the repeats from {low:.2f} to {high:.2f}")


if __name__ == "__main__":
    main()
