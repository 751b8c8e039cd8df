"""The sentence on top of a report: whether steering beats best-of-n at equal cost, by a judge that did not steer."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from fktext.plugins.specs import parse_spec
from fktext_evals import measures
from fktext_evals.reporting.report import shown_value
from fktext_evals.running.results import Results
from fktext_evals.statistics import Interval
from fktext_evals.suites.suite import Judge, Method, Suite

_AXES = {"seconds": "seconds", "denoiser_rows": "denoiser rows", "reward_calls": "reward calls"}  # the most telling one first


@dataclass(frozen=True)
class _Contest:
    """A steered method against best-of-n: the difference of what a judge says of the two, and at which cost they are compared."""

    method: Method
    other: str
    difference: Interval
    where: str

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.difference.low > 0 or self.difference.high < 0


def verdict(results: Results) -> str:
    """Say which method wins by the held-out judge, by how much, and whether that is sure; "" where nothing can be compared.

    Best-of-n is taken at equal seconds where it was run at such a cost, else at equal denoiser rows, reward calls, or N. Of each
    steered method the largest N is taken that can be compared so, and of several methods the one that does best.
    """
    judge = judging(results.suite)
    goal = direction(results.suite, judge)
    largest = {
        each.method.name: each for each in sorted(_contests(results, judge), key=lambda each: each.method.settings.particles)
    }
    found = [each for each in largest.values() if math.isfinite(each.difference.mean)]
    if not found:
        return ""
    best = max(found, key=lambda each: each.difference.mean * goal if goal else abs(each.difference.mean))
    warned = "" if not results.suite.steers(judge) else " No judge was held out: this is what was optimised."
    return f"{'So far: ' * bool(results.missing)}{_sentence(best, len(found), judge, goal)}{warned}"


def judging(suite: Suite) -> Judge:
    """Choose the judge to go by: one that did not steer, of what the steering judge judges, if there is such a one."""
    labels = {judge.label for judge in suite.judges if suite.steers(judge)}
    others = [judge for judge in suite.judges if not suite.steers(judge)]
    alike = [judge for judge in others if judge.label in labels]
    return [*alike, *(judge for judge in suite.judges if suite.steers(judge)), *others][0]


def direction(suite: Suite, judge: Judge) -> int:
    """Say which way steering is to move a judge's number: 1 up, -1 down, 0 where the suite does not tell."""
    for reward in suite.rewards:
        alone = replace(suite, rewards=(reward,))
        if any(alone.steers(each) and (each.label, each.kind) == (judge.label, judge.kind) for each in suite.judges):
            up = parse_spec(reward).weight > 0
            return 1 if up != (judge.kind == "perplexity") else -1
    return 0


def _contests(results: Results, judge: Judge) -> Iterator[_Contest]:
    """Yield the comparisons at the most telling kind of equal cost that there are any at."""
    place = results.suite.judges.index(judge)
    matched = [(method, other, found[place]) for method, other, found in measures.against_best_of_n(results)]
    for axis, unit in _AXES.items():
        there = [item for item in matched if item[2].axis == axis and item[2].difference is not None]
        for method, other, found in there:
            assert found.difference is not None
            yield _Contest(method, other, found.difference, f"At equal {unit}")
        if there:
            return
    for method, against in measures.equal_n(results):
        rows, others = results.of(method.key), results.of(against.key)
        if against.returns == "best" and (difference := measures.difference(rows, others, judge)):
            times = measures.mean(rows, "seconds") / measures.mean(others, "seconds")
            yield _Contest(method, against.name, difference, f"At equal N, which takes {times:.1f} times the seconds,")


def _sentence(contest: _Contest, of: int, judge: Judge, goal: int) -> str:
    name, ends = contest.method.name, contest.difference
    ours = f"{name} (N = {contest.method.settings.particles}{f', the best of {of} steered methods' * (of > 1)})"
    if not contest.clear:
        said = f"there is no clear difference between {ours} and {contest.other}"
    elif not goal:
        said = f"{ours} differs from {contest.other}"
    elif ends.mean * goal > 0:
        said = f"{ours} beats {contest.other}"
    else:
        said = f"{contest.other} beats {ours}"
    what = f"{judge.label} share" if judge.kind == "share" else judge.label if judge.kind == "perplexity" else f"mean {judge.label}"
    size = shown_value(abs(ends.mean), judge) + " points" * (judge.kind == "share")
    moved = f"{size} {'higher' if ends.mean > 0 else 'lower'}" if float(shown_value(ends.mean, judge)) else "the same"
    interval = f"95 % interval {shown_value(ends.low, judge, '+')} to {shown_value(ends.high, judge, '+')}"
    sure = "too few prompts for an interval" if math.isnan(ends.low) else interval
    return f"{contest.where} {said}: by the {judge.name} judge the {what} of {name} is {moved} ({sure})."
