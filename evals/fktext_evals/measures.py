"""What is measured on the rows of a run: shares, means, differences and gaps, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import product
from statistics import fmean
from typing import get_args

from fktext.files.writing import from_json
from fktext.settings import STEERING
from fktext_evals import compute, metrics
from fktext_evals.running.results import Results, Row
from fktext_evals.statistics import Interval, mean_interval, share_interval
from fktext_evals.suites.suite import Judge, Method, Suite


def share(rows: Sequence[Row], judge: Judge) -> Interval:
    """Return the share of texts with p(label) above the judge's threshold."""
    return share_interval(verdicts(rows, judge), [row["prompt_index"] for row in rows])


def judged(rows: Sequence[Row], judge: Judge) -> Interval:
    """Sum up a judge's verdicts by its kind: the share above its threshold, the mean perplexity, or the mean of its values."""
    return share(rows, judge) if judge.kind == "share" else mean_over_texts(verdicts(rows, judge), rows)


def verdicts(rows: Sequence[Row], judge: Judge) -> list[float]:
    """Return what a judge says of each text: 1 or 0 for above its threshold or not, the perplexity, or its value."""
    values = [from_json(row["judges"][judge.name]) for row in rows]
    if judge.kind == "share":
        return [float(value > judge.log_threshold) for value in values]
    return [_exp(-value) for value in values] if judge.kind == "perplexity" else values


def gaps(suite: Suite, rows: Sequence[Row]) -> Iterator[tuple[str, Interval]]:
    """Yield over-optimisation, `<label>_gap_<judge>`: p(label) by the judge that steers minus that by another of the label."""
    shares = [judge for judge in suite.judges if judge.kind == "share"]
    for ours in shares:
        for other in shares:
            if suite.steers(ours) and not suite.steers(other) and ours.label == other.label:
                both = [[math.exp(from_json(row["judges"][judge.name])) for judge in (ours, other)] for row in rows]
                yield f"{ours.label}_gap_{other.name}", mean_over_texts([one - two for one, two in both], rows)


def token_perplexity(rows: Sequence[Row], judge: Judge) -> Interval:
    """Return the perplexity of all judged tokens together; the mean over texts of each one's own is `judged`."""
    values = [from_json(row["judges"][judge.name]) for row in rows]
    if -math.inf in values:
        return Interval(math.inf, math.nan, math.nan)
    tokens, prompts = [row["judged_tokens"][judge.name] for row in rows], [row["prompt_index"] for row in rows]
    found = mean_interval(values, prompts, weights=tokens)
    return Interval(*(_exp(-value) for value in (found.mean, found.high, found.low)))


def rewards(rows: Sequence[Row]) -> list[float]:
    """Return the reward of each text: of all that steer, weights included."""
    return [from_json(row["reward"]) for row in rows]


def mean_reward(rows: Sequence[Row]) -> Interval:
    """Return the mean of the reward."""
    return mean_over_texts(rewards(rows), rows)


def difference(rows: Sequence[Row], others: Sequence[Row], judge: Judge) -> Interval | None:
    """Subtract what a judge says of `others` from what it says of `rows`; see `paired`."""
    return paired(rows, others, partial(verdicts, judge=judge), shares=judge.kind == "share")


def paired(rows: Sequence[Row], others: Sequence[Row], measure: compute.Measure, *, shares: bool = False) -> Interval | None:
    """Return the mean difference of a number that each text has, over the prompts, seeds and samples that both sides have.

    Args:
        rows, others: texts of the two sides.
        measure: rows -> a number for each.
        shares: the number is 0 or 1, see `contrast_interval`.

    Returns:
        None if they have none in common; an interval of nan where a difference is not finite.
    """
    ours, theirs = (compute.measured(side, measure) for side in (rows, others))
    if not (both := [pair for pair in ours if pair in theirs]):
        return None
    return compute.contrast([ours, theirs], [1, -1], both, shares=shares)


def distinct(rows: Sequence[Row]) -> list[float]:
    """Return distinct 1-, 2- and 3-grams per word of the texts of a prompt and seed, means over prompts and seeds."""
    return [together(rows, partial(metrics.distinct_n_words, n=n)).mean for n in (1, 2, 3)]


def together(rows: Sequence[Row], metric: Callable[[Sequence[str]], float]) -> Interval:
    """Take the mean over prompts and seeds of a metric of the texts of one prompt and seed."""
    groups = metrics.by_prompt(rows, [(row["prompt_index"], row["seed"]) for row in rows])
    return mean_over_texts([metric([row["continuation"] for row in group]) for group in groups], [group[0] for group in groups])


def mean(rows: Sequence[Row], name: str) -> float:
    """Return the mean of a column."""
    return fmean(row[name] for row in rows)


def equal_n(results: Results) -> list[tuple[Method, Method]]:
    """Pair each steered method with each best-of-n of as many particles."""
    there = [method for method in results.suite.methods if results.of(method.key)]
    return [
        (method, other)
        for method, other in product(there, there)
        if method.settings.method in STEERING
        and other.settings.method == "best-of-n"
        and method.settings.particles == other.settings.particles
    ]


def against_best_of_n(results: Results, *more: compute.Measure) -> Iterator[tuple[Method, str, list[compute.Matched]]]:
    """Compare each steered method with each best-of-n at its own cost, by axis: as each judge sees it, and by more measures."""
    measures: list[tuple[compute.Measure, bool]] = [
        *((partial(verdicts, judge=judge), judge.kind == "share") for judge in results.suite.judges),
        *((measure, False) for measure in more),
    ]
    others = dict.fromkeys(
        item.name for item in results.suite.methods if item.settings.method == "best-of-n" and item.returns == "best"
    )
    for method in results.suite.methods:
        for other, axis in product(others if method.settings.method in STEERING else (), get_args(compute.Axis)):
            found = [compute.at_equal_cost(results, method, other, measure, axis, shares=shares) for measure, shares in measures]
            if kept := [item for item in found if item is not None]:
                yield method, other, kept


def mean_over_texts(values: Sequence[float], rows: Sequence[Row]) -> Interval:
    """Take a mean, without ends where a value is not finite: it is -inf or inf then."""
    if not all(map(math.isfinite, values)):
        return Interval(fmean(values), math.nan, math.nan)
    return mean_interval(values, [row["prompt_index"] for row in rows])


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
