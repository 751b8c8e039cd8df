"""What the figures of a report show, as numbers: `charts` draws them into the page, `plots` with matplotlib into files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from fktext_evals.measures import judged, mean_reward
from fktext_evals.reporting.report import heading
from fktext_evals.running.results import Results, Row
from fktext_evals.statistics import Interval, mean_interval
from fktext_evals.suites.suite import Judge


@dataclass(frozen=True)
class Point:
    """Two quantities, each with its interval; `label` is written beside it."""

    x: Interval
    y: Interval
    label: str = ""


@dataclass(frozen=True)
class Line:
    """The points of a method, in the order in which they are joined.

    `series` is the place of its name among a run's methods, `variant` tells lines of one name apart.
    """

    name: str
    series: int
    points: tuple[Point, ...]
    variant: int = 0


@dataclass(frozen=True)
class Figure:
    """A figure: `name` is for files, `about` says what to look for.

    A `curve` over steps has no markers and no intervals, and y is a share.
    """

    name: str
    title: str
    about: str
    x_title: str
    y_title: str
    lines: tuple[Line, ...]
    log_x: bool = False
    curve: bool = False


def series_names(results: Results) -> list[str]:
    """List the names of a run's methods, each once."""
    return list(dict.fromkeys(method.name for method in results.suite.methods))


def held_out(results: Results) -> list[Judge]:
    """List the judges that did not steer."""
    return [judge for judge in results.suite.judges if not results.suite.steers(judge)]


def figures(results: Results) -> Iterator[Figure]:
    """Yield the figures of a run that its rows have something for."""
    reward = "mean steering reward"
    for name, column, unit, what in (
        ("reward-rows", "denoiser_rows", "denoiser rows per text", "compute"),
        ("reward-calls", "reward_calls", "reward calls per text", "number of reward calls"),
        ("reward-seconds", "seconds", "seconds per text", "time"),
    ):
        if lines := _points(results, _per_text(column), mean_reward, log_x=True):
            about = f"At the same {what}, higher is better. Numbers are particles."
            yield Figure(name, f"Reward against {what}", about, unit, reward, lines, log_x=True)
    for judge in held_out(results):
        if lines := _points(results, mean_reward, _by(judge)):
            about = "Where reward goes on to rise and the judge does not follow, steering found what only its own reward likes."
            yield Figure(f"reward-{judge.name}", f"Reward against the {judge.name} judge", about, reward, heading(judge, ""), lines)
    for name, title, about in (
        ("ess", "Effective sample size over steps", "Before resampling, as a share of N, mean over texts."),
        (
            "roots",
            "Surviving ancestors over steps",
            "Particles of the start that have descendants, as a share of N, mean over texts.",
        ),
    ):
        if lines := _curves(results, name):
            yield Figure(name, title, about, "reverse step", "share of N", lines, curve=True)


def joint(runs: Sequence[Results]) -> Iterator[Figure]:
    """Yield the figures that runs have in common, with the methods of all in each.

    None where their rewards differ, and no curves over steps.
    """
    if len({results.suite.rewards for results in runs}) > 1:
        return
    names = [results.folder.name for results in runs]
    if len(set(names)) < len(names):
        names = [str(number) for number in range(1, len(runs) + 1)]
    of_each = [{figure.name: figure for figure in figures(results) if not figure.curve} for results in runs]
    for figure in of_each[0].values():
        there = [(name, own[figure.name]) for name, own in zip(names, of_each, strict=True) if figure.name in own]
        if len(there) < len(runs) or any(each.y_title != figure.y_title for _, each in there):
            continue
        lines = [replace(line, name=f"{name}: {line.name}") for name, each in there for line in each.lines]
        yield replace(figure, lines=tuple(replace(line, series=series) for series, line in enumerate(lines)))


Measure = Callable[[Sequence[Row]], Interval]


def _per_text(column: str) -> Measure:
    return lambda rows: mean_interval([row[column] for row in rows], [row["prompt_index"] for row in rows])


def _by(judge: Judge) -> Measure:
    """Measure what a judge says, in the unit of its `heading`."""
    scale = 100 if judge.kind == "share" else 1

    def measure(rows: Sequence[Row]) -> Interval:
        found = judged(rows, judge)
        return Interval(scale * found.mean, scale * found.low, scale * found.high)

    return measure


def _points(results: Results, x: Measure, y: Measure, log_x: bool = False) -> tuple[Line, ...]:
    """Make a line for each name of a method, a point for each number of particles, but for means that cannot be drawn.

    Those are infinite, or, where x has a logarithmic axis, 0: the reward calls of the base model.
    """
    lines = []
    for series, name in enumerate(series_names(results)):
        points = [
            Point(x(rows), y(rows), str(method.settings.particles))
            for method in sorted(results.suite.methods, key=lambda method: method.settings.particles)
            if method.name == name and (rows := results.of(method.key))
        ]
        finite = (point for point in points if math.isfinite(point.x.mean) and math.isfinite(point.y.mean))
        if drawn := tuple(point for point in finite if point.x.mean > 0 or not log_x):
            lines.append(Line(name, series, drawn))
    return tuple(lines)


def _curves(results: Results, column: str) -> tuple[Line, ...]:
    """Make a line for each method that weighs on the way; weighings are averaged by their place."""
    lines: list[Line] = []
    series = series_names(results)
    for method in results.suite.methods:
        rows = [row for row in results.of(method.key) if len(row.get("weighed_at", ())) > 1]
        if not rows:
            continue
        points = []
        for place in range(max(len(row["weighed_at"]) for row in rows)):
            there = [row for row in rows if len(row["weighed_at"]) > place]
            step, value = (fmean(row[name][place] for row in there) for name in ("weighed_at", column))
            points.append(Point(_exactly(step), _exactly(value / method.settings.particles)))
        number = series.index(method.name)
        variant = sum(line.series == number for line in lines)
        lines.append(Line(f"{method.name} {method.settings.particles}", number, tuple(points), variant))
    return tuple(lines)


def _exactly(value: float) -> Interval:
    return Interval(value, math.nan, math.nan)
