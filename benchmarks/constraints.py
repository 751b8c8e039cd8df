"""How often a hard constraint is met at the end: by the embedded model alone, by best-of-n, and by FK steering.

    OMP_NUM_THREADS=1 python benchmarks/constraints.py             # two hours on one core
    python benchmarks/constraints.py --only regex --populations 20 --particles 8

Prints one table in Markdown: the share of texts that meet a constraint, and of populations that end with such a text. One that
does not is dead: its log Z is -inf, and it has no text to give. Best-of-n's populations are the model's own texts in groups of N,
which is what best-of-n is until it chooses; it asks for N rewards. FK's rewards are those a population asked for and, in brackets,
those that were computed. Intervals are Wilson's, at 95 %.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from fktext import Settings, Template, load, load_plugins
from fktext.rewards import Scorer, Weighted
from fktext.texts.generate import Population, generate

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


def populations(prompt: str | Template, settings: Settings, rewards: Sequence[Weighted] = ()) -> list[Population]:
    """What is left of a run at its end, with the defaults of everything that is not given."""
    found = generate(model(), rewards, [prompt], settings, batch_size=ROWS)
    return [item for item in found if isinstance(item, Population)]


@cache
def alone(prompt: str | Template, settings: Settings) -> list[str]:
    """What the model writes without any reward."""
    return [item.texts[0] for item in populations(prompt, settings)]


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
    texts = alone(case.prompt, replace(settings, method="base", samples=args.texts))
    met = (Scorer([constraint])(texts)[:, 0] == 0).tolist()
    for size in args.particles:
        groups = [any(met[first : first + size]) for first in range(0, len(met) - size + 1, size)]
        steered = [
            populations(case.prompt, replace(settings, particles=size, samples=args.populations, pseudo_count=count), [constraint])
            for count in args.pseudo_counts
        ]
        cells = [f"`{case.reward}`", f"`{case.prompt}`", shown(met), str(size), shown(groups)]
        for found in steered:
            asked, computed = (sum(getattr(item.ledger, f"reward_{kind}") for item in found) for kind in ("requests", "calls"))
            cells += [shown([not item.dead for item in found]), f"{asked / len(found):.0f} ({computed / len(found):.0f})"]
        yield f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--particles", nargs="+", type=int, default=[8, 16, 32])
    parser.add_argument("--pseudo-counts", nargs="+", type=float, default=[1.0, 0.1], help="c of FK, see docs/method.md")
    parser.add_argument("--populations", type=int, default=100, help="of FK, for each number of particles")
    parser.add_argument("--texts", type=int, default=1600, help="of the model alone")
    parser.add_argument("--steps", type=int, default=24)
    args = parser.parse_args()
    if args.texts < max(args.particles):
        parser.error(f"--texts {args.texts} is less than one population of {max(args.particles)}")
    header = ["constraint", "prompt or template", "model alone %", "N", "best-of-n %"]
    for count in args.pseudo_counts:
        header += [f"FK, c = {count:g}, %", "its rewards"]
    print(f"| {' | '.join(header)} |\n|{'---|' * len(header)}")
    for name in args.only:
        for line in lines(CASES[name], args):
            print(line, flush=True)


if __name__ == "__main__":
    main()
