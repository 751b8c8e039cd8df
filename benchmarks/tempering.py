"""How much less log Z varies where tilts are tempered, on a model whose Z is known.

    OMP_NUM_THREADS=1 python benchmarks/tempering.py               # minutes on one core
    python benchmarks/tempering.py --lambdas 4 --particles 16 --populations 200

Prints one table in Markdown. Every text of the model can be listed, so Z is exact. Each row steers independent populations with the
same noise as the first row of its lambda and N, which does not temper:

- threshold: of resampling, as a share of N; 0.9 is the default, 1.1 resamples at every weighing.
- temper: the share of N that a weighing leaves effective.
- ratio: the variance of log Z, divided by that of the first row.
- log Z - exact: mean error, below zero because the logarithm of an unbiased estimate is too small on average.
- tau: mean power of the tilt at the first, the middle and the last weighing before the end.
- ess: effective particles at the end; best: the mean of the highest reward in a population.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

from fktext.smc.lookahead import Predictions
from fktext.smc.resamplers import RESAMPLERS
from fktext.smc.steer import Result
from fktext.testing.enumerable import Enumerable
from fktext.testing.exact import run_case


class Way(NamedTuple):
    """When a population resamples, and which share it tempers to."""

    threshold: float
    temper: float | None


WAYS = (Way(0.9, None), Way(0.9, 0.25), Way(0.9, 0.45), Way(0.9, 0.8), Way(1.1, None), Way(1.1, 0.6), Way(1.1, 0.8))


def cells(result: Result, exact: float) -> list[str]:
    """The figures of a run but for the ratio."""
    error = result.log_z - exact
    taus = [float(step.tau.mean()) for step in result.steps[:-1]]
    shown = (taus[0], taus[len(taus) // 2], taus[-1])
    return [
        f"{error.mean():+.2f} ± {float(error.std()) / len(error) ** 0.5:.2f}",
        " ".join(f"{tau:.2f}" for tau in shown),
        f"{result.steps[-1].ess.mean():.1f}",
        f"{result.reward.amax(1).mean():.2f}",
    ]


def lines(model: Enumerable, lam: float, particles: int, args: argparse.Namespace) -> Iterator[str]:
    """The rows of one lambda and one number of particles."""
    exact, first = float(model.tilted(lam).sum().log()), 0.0
    for way in WAYS:
        how = {"particles": particles, "lam": lam, "temper": way.temper, "look_ahead": Predictions(args.x0_samples)}
        result = run_case(
            model, args.potential, RESAMPLERS["systematic"], way.threshold, populations=args.populations, seed=args.seed, **how
        )
        variance = float(result.log_z.var())
        first = first or variance
        row = [f"{lam:g}", str(particles), f"{way.threshold:g}", f"{way.temper:g}" if way.temper else "no"]
        yield f"| {' | '.join([*row, f'{variance:.2f}', f'{variance / first:.2f}', *cells(result, exact)])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lambdas", nargs="+", type=float, default=[4.0, 10.0])
    parser.add_argument("--particles", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--potential", choices=("difference", "max", "sum"), default="difference")
    parser.add_argument("--x0-samples", type=int, default=4, help="predictions per weighing")
    parser.add_argument("--populations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model = Enumerable(length=4, tokens=3, num_steps=8)
    header = ["λ", "N", "threshold", "temper", "variance of log Z", "ratio", "log Z - exact", "tau", "ess", "best"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for lam in args.lambdas:
        for particles in args.particles:
            for line in lines(model, lam, particles, args):
                print(line, flush=True)


if __name__ == "__main__":
    main()
