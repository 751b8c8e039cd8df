"""Compares two runs: paired differences, text by text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fktext.errors import UsageError, shorten
from fktext_evals import measures
from fktext_evals.reporting import blocks, report
from fktext_evals.reporting.blocks import Report, Table
from fktext_evals.running.results import Results, key
from fktext_evals.statistics import Interval
from fktext_evals.suites.suite import Judge, Method


@dataclass(frozen=True)
class Difference:
    """A method of one run minus a method of another, over the prompts, seeds and samples that both have texts for.

    Attributes:
        method, other: the two.
        texts: how many pairs.
        judges: for each judge of the suite the difference of what it says, as `measures.verdicts`.
        reward: the difference of rewards.
        rows, seconds: what `method` costs, as a multiple of what `other` does; nan where that is nothing.
    """

    method: Method
    other: Method
    texts: int
    judges: tuple[Interval, ...]
    reward: Interval
    rows: float
    seconds: float


def compare(ours: Results, theirs: Results, method: str | None = None, against: str | None = None) -> list[Difference]:
    """Take paired differences between two runs, ours minus theirs, with intervals clustered by prompt.

    Models and methods may differ between the runs; what the texts are judged by and asked for may not.

    Args:
        ours, theirs: the runs; the same one twice compares methods within it.
        method: NAME or NAME:N, of ours; None for all that both runs have.
        against: NAME or NAME:N, of theirs; None for the same as `method`.

    Returns:
        Those that have a text in common, in the order of our suite.

    Raises:
        UsageError: the suites differ, a method is unknown, or nothing is in common.
    """
    if difference := _differ(ours, theirs):
        raise UsageError(f"{str(ours.folder)!r} and {str(theirs.folder)!r} cannot be compared: {difference}")
    pairs = list(_pairs(ours, theirs, method, against))
    for one, other in pairs:
        lengths = [getattr(each.settings, "length", None) for each in (one, other)]  # images have none
        if lengths[0] != lengths[1]:
            raise UsageError(
                f"{one.name}:{one.settings.particles} makes texts of {lengths[0]} tokens, {other.name}:"
                f"{other.settings.particles} of {lengths[1]}; texts of one length are compared"
            )
    found = [item for pair in pairs if (item := _compared(ours, theirs, *pair))]
    if not found:
        names = ", ".join(
            f"{one.name}:{one.settings.particles} with {other.name}:{other.settings.particles}" for one, other in pairs
        )
        raise UsageError(
            f"{str(ours.folder)!r} and {str(theirs.folder)!r} have no text in common to compare"
            + (f" for {names}" if names else "; --method and --against say which methods to compare")
        )
    return found


def markdown(ours: Results, theirs: Results, found: Sequence[Difference]) -> str:
    """Write the differences as a table in Markdown."""
    return blocks.markdown(as_report(ours, theirs, found))


def as_report(ours: Results, theirs: Results, found: Sequence[Difference]) -> Report:
    """Put the differences together as a report, in which the two runs are called by their folders."""
    judges, names = ours.suite.judges, run_names(ours.folder, theirs.folder)
    rows = [
        [
            *_pair_name(item),
            str(item.texts),
            *(report.shown(interval, judge, sign="+") for interval, judge in zip(item.judges, judges, strict=True)),
            report.shown(item.reward, None, sign="+"),
            f"x{item.rows:.2f}",
            f"x{item.seconds:.2f}",
        ]
        for item in found
    ]
    what = " - ".join(names) if len(names) == 2 else "difference"
    header = [what, "N", "pairs", *map(report.heading, judges), "reward [95% CI]", "rows", "seconds"]
    return Report(
        title=f"{' minus '.join(names)}, suite {ours.suite.name}",
        verdict="",
        about=[
            f"{name}: {side.folder}, model {side.run['model']['name']} ({side.run['model']['digest']}){_died(side)}"
            for name, side in zip(names, (ours, theirs), strict=False)
        ],
        tables=[Table("Paired: the same prompt, seed and sample on both sides; shares in percentage points", header, rows)],
        notes=f"{report.INTERVALS} Rows and seconds: what the first costs, as a multiple of the second.",
    )


def run_names(ours: Path, theirs: Path) -> list[str]:
    """Name two runs by their folders, with as many of those above as tell them apart; one name where they are one run.

    Example:
        >>> run_names(Path("runs/a"), Path("runs/b")), run_names(Path("/x/a"), Path("/y/a"))
        (['a', 'b'], ['x/a', 'y/a'])
    """
    one, other = (folder.resolve().parts for folder in (ours, theirs))
    if one == other:
        return [one[-1]]
    depth = next(depth for depth in range(1, max(len(one), len(other)) + 1) if one[-depth:] != other[-depth:])
    return ["/".join(parts[-depth:]) for parts in (one, other)]


def _pair_name(item: Difference) -> tuple[str, str]:
    """Name the two methods, once where they are the same, and their numbers of particles."""
    name, particles = report.pair_name(item.method, item.other)
    return (item.method.name if item.method.name == item.other.name else name), particles


def _died(side: Results) -> str:
    return f"; died: {report.died(side)}" if side.died else ""


def as_csv(ours: Results, theirs: Results, found: Sequence[Difference]) -> str:
    """Write the differences as CSV, a line each; shares are between -1 and 1."""
    return report.csv_of([dict(_csv_line(ours, theirs, item)) for item in found])


def _csv_line(ours: Results, theirs: Results, item: Difference) -> Iterator[tuple[str, object]]:
    for name, side, method in (("run", ours, item.method), ("other", theirs, item.other)):
        yield name, str(side.folder)
        yield f"{name}_method", method.name
        yield f"{name}_particles", method.settings.particles
    yield "pairs", item.texts
    intervals = [(_column(judge), interval) for judge, interval in zip(ours.suite.judges, item.judges, strict=True)]
    for name, interval in (*intervals, ("reward", item.reward)):
        yield from report.spread(name, interval).items()
    yield "rows_ratio", item.rows
    yield "seconds_ratio", item.seconds


def _column(judge: Judge) -> str:
    return f"{judge.label}_{judge.name}{'_share' if judge.kind == 'share' else ''}"


def _differ(ours: Results, theirs: Results) -> str:
    """Say what stands in the way of pairing the texts of two runs, "" if nothing."""
    tables = [side.suite.as_table() for side in (ours, theirs)]
    for name in ("prompts", "samples", "judge_tokens", "judges", "rewards"):
        one, other = (table.get(name) for table in tables)
        if one != other:
            return f"{name.replace('_', ' ')} differ ({_short(one)} and {_short(other)})"
    if not set(ours.suite.seeds) & set(theirs.suite.seeds):
        return f"they have no seed in common ({_short(list(ours.suite.seeds))} and {_short(list(theirs.suite.seeds))})"
    models = [side.run.get("rewards", {}) for side in (ours, theirs)]
    for name in models[0]:
        one, other = (table.get(name) for table in models)
        if one != other:
            return f"{name!r} is not the same in both ({_short(one)} and {_short(other)})"
    return ""


def _short(value: object) -> str:
    return shorten(repr(value), 60)


def _pairs(ours: Results, theirs: Results, method: str | None, against: str | None) -> Iterator[tuple[Method, Method]]:
    if method is None and against is not None:
        raise UsageError("--against needs --method: what to compare with it")
    first = _methods(ours, method, "--method")
    if against is None:
        others = {item.key: item for item in theirs.suite.methods}
        if ours.folder == theirs.folder:
            raise UsageError("a run compared with itself needs --method and --against")
        yield from ((item, others[item.key]) for item in first if item.key in others)
        return
    second = _methods(theirs, against, "--against")
    for item in first:
        # at equal N where both have several, else each with each
        equal = [other for other in second if other.settings.particles == item.settings.particles]
        yield from ((item, other) for other in (equal if len(first) > 1 and len(second) > 1 else second))


def _methods(results: Results, wanted: str | None, option: str) -> list[Method]:
    if wanted is None:
        return list(results.suite.methods)
    found = [method for method in results.suite.methods if wanted in (method.name, f"{method.name}:{method.settings.particles}")]
    if not found:
        known = ", ".join(f"{method.name}:{method.settings.particles}" for method in results.suite.methods)
        raise UsageError(f"{option} {wanted!r} is not a method of {str(results.folder)!r}; it has {known}")
    return found


def _compared(ours: Results, theirs: Results, method: Method, other: Method) -> Difference | None:
    rows, others = ours.of(method.key), theirs.of(other.key)
    both = {key(row)[2:] for row in rows} & {key(row)[2:] for row in others}
    if not both:
        return None
    rows, others = ([row for row in side if key(row)[2:] in both] for side in (rows, others))
    judged = [measures.difference(rows, others, judge) for judge in ours.suite.judges]
    reward = measures.paired(rows, others, measures.rewards)
    ratios = [_ratio(measures.mean(rows, name), measures.mean(others, name)) for name in ("denoiser_rows", "seconds")]
    assert reward is not None
    return Difference(method, other, len(both), tuple(item for item in judged if item), reward, *ratios)


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.nan
