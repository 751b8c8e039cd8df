"""Compares images steered by each method, as a judge that has not steered sees them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from fktext_evals.statistics import Interval, mean_interval, share_interval

if TYPE_CHECKING:
    from fktext.population import Population


@dataclass(frozen=True)
class ImageJudge:
    """A reward to measure by.

    Attributes:
        name: what it is called where its verdicts are printed.
        reward: has `score`. Where its values are log-probabilities (it says so as `log_probability`), an image counts as a hit
            when its probability is above 1/2, and shares of hits are compared; else means of values.
    """

    name: str
    reward: Any

    @property
    def shares(self) -> bool:
        """Say whether shares of hits are compared."""
        return bool(getattr(self.reward, "log_probability", False))

    def values(self, population: Population) -> torch.Tensor:
        """Return (N,) what it says of each image: 1 or 0, a hit or not, where shares are compared."""
        values = torch.as_tensor(self.reward.score(population.samples)).double()
        return (values.exp() > 0.5).double() if self.shares else values


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one method.

    Attributes:
        method: its name.
        population: the mean over whole populations, by weight.
        returned: the mean of the images that are returned, with its interval.
        images: how many those are.
    """

    method: str
    population: float
    returned: Interval
    images: int


def compare(
    found: Mapping[str, Sequence[Population]], judge: ImageJudge, returned: Callable[[Population], Sequence[int]]
) -> list[Verdict]:
    """Judge the populations of each method, and those of best-of-n, unweighted, as what nobody steered.

    Args:
        found: the populations of "best-of-n", and of the other methods.
        judge: not a reward that has steered.
        returned: which particles of a population are returned.
    """
    judged = {method: [(each, judge.values(each)) for each in populations] for method, populations in found.items()}
    verdicts = [_base([values for _, values in judged["best-of-n"]], judge.shares)]
    for method, populations in judged.items():
        by_weight = [float((each.log_w.double().softmax(0) * values).sum()) for each, values in populations]
        kept = [(place, float(values[index])) for place, (each, values) in enumerate(populations) for index in returned(each)]
        clusters = [str(place) for place, _ in kept]
        interval = _interval([value for _, value in kept], clusters, judge.shares)
        verdicts.append(Verdict(method, sum(by_weight) / len(by_weight), interval, len(kept)))
    return verdicts


def _base(populations: Sequence[torch.Tensor], shares: bool) -> Verdict:
    """Judge images that count alike and are independent of each other."""
    values = torch.cat(list(populations)).tolist()
    clusters = [str((place, index)) for place, each in enumerate(populations) for index in range(len(each))]
    interval = _interval(values, clusters, shares)
    return Verdict("base", sum(float(each.mean()) for each in populations) / len(populations), interval, len(values))


def _interval(values: list[float], clusters: list[str], shares: bool) -> Interval:
    return share_interval([value > 0 for value in values], clusters) if shares else mean_interval(values, clusters)


def lines(verdicts: Sequence[Verdict], judge: ImageJudge) -> Iterator[str]:
    """Yield the lines of a table for the terminal."""
    yield f"{'share with p > 1/2' if judge.shares else 'mean'} by {judge.name}:"
    yield f"  {'':<10}{'population':>10}{'returned':>12}  95% interval"
    for each in verdicts:
        mean, low, high = each.returned.mean, each.returned.low, each.returned.high
        ends = "-" if low != low else f"{low:.3f} to {high:.3f}"
        count = f"{each.images} image{'s' * (each.images != 1)}"
        yield f"  {each.method:<10}{each.population:>10.3f}{mean:>12.3f}  {ends:<14}  {count}"
