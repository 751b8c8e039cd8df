"""How often a hard constraint is met at the end: by the embedded model alone, by best-of-n, and by FK steering.

    OMP_NUM_THREADS=1 python benchmarks/constraints.py             # an hour on one core
    python benchmarks/constraints.py --only regex --populations 20 --particles 8

Prints one table in Markdown: the share of texts that meet a constraint, and of populations that end with such a text. One that
does not is dead: its log Z is -inf, and it has no text to give. Best-of-n's populations are the model's own texts in groups of N,
which is what best-of-n is until it chooses; it asks for N rewards. Intervals are Wilson's, at 95 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from fktext import Settings, Template, load, load_plugins
from fktext.generate import Population, generate
from fktext.rewards import Scorer, Weighted

ROWS = 256  # particles at once


class Case(NamedTuple):
    """A constraint, and what the model is asked to write."""

    reward: str
    prompt: str | Template = "the book"
    length: int | None = 12


CASES = {
    "regex": Case("regex:pattern=was"),
    "keywords": Case('keywords:words="very good",penalty=inf'),
    "length": Case("length:min=9,max=12"),
    "json": Case("json", Template('["{2}", {4}]'), None),
}


model = cache(lambda: load("tiny-mdlm"))


def populations(case: Case, settings: Settings, rewards: Sequence[Weighted] = ()) -> list[Population]:
    """What is left of a run at its end, with the defaults of everything that is not given."""
    found = generate(model(), rewards, [case.prompt], settings, batch_size=ROWS)
    return [item for item in found if isinstance(item, Population)]


def wilson(hits: int, of: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share of `hits` in `of` trials (Wilson 1927)."""
    share, total = hits / of, 1 + z**2 / of
    middle = (share + z**2 / (2 * of)) / total
    reach = z / total * math.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def shown(hits: list[bool]) -> str:
    """A share with its interval, in percent."""
    low, high = wilson(sum(hits), len(hits))
    return f"{100 * sum(hits) / len(hits):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def lines(case: Case, args: argparse.Namespace) -> Iterator[str]:
    """The rows of one constraint, one for each number of particles."""
    constraint = load_plugins().create(case.reward)
    settings = Settings(length=case.length, steps=args.steps)
    alone = populations(case, replace(settings, method="base", samples=args.texts))
    met = (Scorer([constraint])([item.texts[0] for item in alone])[:, 0] == 0).tolist()
    for size in args.particles:
        groups = [any(met[first : first + size]) for first in range(0, len(met) - size + 1, size)]
        steered = populations(case, replace(settings, particles=size, samples=args.populations), [constraint])
        alive = [item.log_z > -math.inf for item in steered]
        asked, computed = (
            f"{sum(getattr(item.ledger, name) for item in steered) / len(steered):.0f}"
            for name in ("reward_requests", "reward_calls")
        )
        asks = f"`{case.reward}`", f"`{case.prompt}`"
        yield f"| {' | '.join([*asks, shown(met), str(size), shown(groups), shown(alive), f'{asked} ({computed})'])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--particles", nargs="+", type=int, default=[8, 16, 32])
    parser.add_argument("--populations", type=int, default=100, help="of FK, for each number of particles")
    parser.add_argument("--texts", type=int, default=1600, help="of the model alone")
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args()
    if args.texts < max(args.particles):
        parser.error(f"--texts {args.texts} is less than one population of {max(args.particles)}")
    print("| constraint | prompt or template | model alone % | N | best-of-n % | FK % | FK's rewards asked for (computed) |")
    print("|---|---|---|---|---|---|---|")
    for name in args.only:
        for line in lines(CASES[name], args):
            print(line, flush=True)


if __name__ == "__main__":
    main()
