"""Reports as one HTML page that needs nothing else: no network, no script to be read, and no text before a reader asks for it.

Whatever comes from a run is escaped by the templates; the page's own script is the only one its content security policy lets run.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fktext
from fktext import player
from fktext.files.writing import from_json, write_whole
from fktext.plugins.specs import parse_spec
from fktext_evals import compute, measures
from fktext_evals import lineage as lineages
from fktext_evals.lineage import Lineage
from fktext_evals.reporting import report
from fktext_evals.reporting.charts import SERIES, chart, marker, number, strip, strip_axis
from fktext_evals.reporting.figures import figures, series_names
from fktext_evals.reporting.tree import in_words, reward_range, tree
from fktext_evals.reporting.verdict import verdict
from fktext_evals.running.results import Results, Row, RunError, writing
from fktext_evals.statistics import Interval
from fktext_evals.suites.suite import Judge, Method, counted

if TYPE_CHECKING:
    from jinja2 import Environment

TOXIC = "Texts here were steered towards toxic language, or by a judge of it."


def html(runs: Sequence[Results], texts: int = 2, lineages: int = 2) -> str:
    """Write the report of runs as a page.

    Args:
        runs: from `fktext_evals.run` or `fktext_evals.running.results.read`.
        texts: how many texts to show of each prompt and method, hidden until clicked where the suite has a warning or steers by
            toxicity; 0 leaves all generated text out of the page.
        lineages: of how many prompts to draw the lineage, for each method that steers.
    """
    heading = " and ".join(dict.fromkeys(results.suite.name for results in runs))
    views = [_run(results, f"run-{place}", texts, lineages) for place, results in enumerate(runs, 1)]
    return _render("report.html.j2", title=f"{heading} · fktext report", heading=heading, runs=views)


def trace_html(trace: Mapping[str, Any]) -> str:
    """Write the lineages of a run, of texts or images, as a page; `trace` is from `fktext_evals.reporting.trace.trace`."""
    run, populations = trace["run"], trace["populations"]
    settings = run["settings"]
    steered = ", ".join(settings["rewards"]) or "nothing"
    facts = [
        ("model", f"{run['model']['name']} ({run['model']['digest']})"),
        ("steered by", steered if settings["method"] == "fk" else f"{steered} ({settings['method']})"),
        ("particles", number(settings["particles"])),
        ("strength λ", number(settings["lam"])),
        ("potential, resampler", f"{settings['potential']}, {settings['resampler']}"),
        ("seed", str(run["seed"])),
    ]
    count = len(populations)
    command = "fktext image generate" if "pipeline" in run["model"] else "fktext generate"
    return _render(
        "trace.html.j2",
        title=f"lineage · {command}",
        command=command,
        heading=f"{count} population{'s' * (count != 1)} of {settings['particles']}",
        facts=facts,
        warning=warning_for(settings["rewards"]),
        names=populations[0]["names"] if populations else [],
        populations=[_population(item, settings["samples"]) for item in populations],
        identity=json.dumps(run, indent=1, ensure_ascii=False),
    )


def warning_for(rewards: Sequence[str]) -> str:
    """Warn of content where a reward's spec is about toxicity and does not evidently steer away from it; else ""."""
    for spec in map(parse_spec, rewards):
        about = "toxic" in " ".join([spec.name, *(value for _, value in spec.options)]).lower()
        away = ("nontoxic" in dict(spec.options).values()) == (spec.weight > 0)
        if about and not away:
            return TOXIC
    return ""


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all. What UTF-8 cannot say, half of a surrogate pair, becomes a character reference.

    Raises:
        RunError: it cannot be written.
    """
    with writing(path):
        write_whole(path, text.encode("utf-8", "xmlcharrefreplace"))


def _run(results: Results, name: str, texts: int, lineages: int) -> dict[str, Any]:
    suite, model = results.suite, results.run["model"]
    series = series_names(results)
    there = [method for method in suite.methods if results.of(method.key)]
    warning = suite.warning or warning_for(suite.rewards)
    matched = list(measures.against_best_of_n(results, measures.rewards))
    return {
        "id": name,
        "name": suite.name,
        "description": suite.description,
        "model": model["name"],
        "folder": str(results.folder),
        "missing": results.missing,
        "texts": suite.texts,
        "verdict": verdict(results),
        "warning": warning,
        "facts": list(_facts(results)),
        "columns": [*(report.heading(judge, "") for judge in suite.judges), "steering reward"],
        "methods": list(_methods(results, there, series)),
        "cost_columns": ["N", "rows / text", "reward calls / text", "seconds / text", "dist-1", "dist-2", "dist-3", "ancestors"],
        "differences": list(_differences(results, matched)),
        "beyond": _beyond(matched),
        "figures": [
            {"title": figure.title, "about": figure.about, "chart": chart(figure)} for figure in figures(results) if results.rows
        ],
        "legend": [{"name": item, "series": place % SERIES, "marker": marker(place)} for place, item in enumerate(series)],
        "lineages": _opened(list(_lineages(results, there, lineages, bool(texts)))),
        "lineage_prompts": "the first prompt" if lineages == 1 else f"the first {lineages} prompts",
        "judges": [f"{judge.name}: {'p(' + judge.label + ')' if judge.kind == 'share' else judge.label}" for judge in suite.judges],
        "samples": list(_samples(results, there, texts)) if texts else [],
        "identity": json.dumps(results.run, indent=1, ensure_ascii=False),
        "sessions": _sessions(results.folder),
    }


def _facts(results: Results) -> Iterator[tuple[str, str]]:
    suite, model = results.suite, results.run["model"]
    yield "model", f"{model['name']} ({model['digest']}, {model['dtype']})"
    yield "steered by", ", ".join(suite.rewards)
    seeds = len(suite.seeds)
    yield (
        "texts of each method",
        f"{counted(len(suite.prompts), 'prompt')}, {counted(suite.samples, suite.modality)} of each"
        + (f", {seeds} seeds" if seeds > 1 else f", seed {suite.seeds[0]}"),
    )
    yield "returned", report.returned(suite.methods)
    for judge in suite.judges:
        yield f"{judge.name} judge", f"{judge.reward}; {report.counts(judge)}"
    if suite.judge_tokens:
        yield "judged", f"{suite.judge_tokens} tokens after the prompt"
    if results.died:
        yield "died", f"{report.died(results)}; {report.DIED}"
    yield "fktext", results.run["fktext"]


def _methods(results: Results, there: Sequence[Method], series: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield a line of the tables for each method."""
    judges = results.suite.judges
    found = [
        [*(measures.judged(rows, judge) for judge in judges), measures.mean_reward(rows)]
        for rows in (results.of(method.key) for method in there)
    ]
    scales = [strip_axis(list(column)) for column in zip(*found, strict=True)]
    before = None
    for method, intervals in zip(there, found, strict=True):
        place, rows = series.index(method.name), results.of(method.key)
        yield {
            "name": method.name,
            "first": method.name != before,
            "particles": method.settings.particles,
            "series": place % SERIES,
            "marker": marker(place),
            "cells": [
                _cell(item, judge, scale, place) for item, judge, scale in zip(intervals, [*judges, None], scales, strict=True)
            ],
            "costs": [
                str(method.settings.particles),
                *(f"{measures.mean(rows, name):.1f}" for name in ("denoiser_rows", "reward_calls")),
                f"{measures.mean(rows, 'seconds'):.2f}",
                *(f"{value:.2f}" if results.suite.modality == "text" else "-" for value in measures.distinct(rows)),
                f"{measures.mean(rows, 'unique_roots'):.1f}",
            ],
        }
        before = method.name


Compared = tuple[str, str, list[Interval | None]]  # a difference's name, its numbers of particles, and of each judge and the reward


Matched = Sequence[tuple[Method, str, list[compute.Matched]]]  # what `measures.against_best_of_n` yields


def _differences(results: Results, matched: Matched) -> Iterator[dict[str, Any]]:
    """Yield the tables of differences that have lines."""
    paired = (
        "Paired: the same prompt, seed and sample on both sides; shares in percentage points. The dashed line is no difference."
    )
    if lines := list(_at_equal_n(results)):
        yield _difference_table(results, "Steering against best-of-n, at equal N", lines, paired)
    how = f"{paired} The other side is interpolated between the two N next to the cost, in its logarithm: the second number."
    for axis, unit in report.COSTS.items():
        lines = [
            (
                f"{method.name} \u2212 {other}",
                f"{method.settings.particles} \u2212 {items[0].particles:.1f}",
                [item.difference for item in items],
            )
            for method, other, items in matched
            if items[0].axis == axis and items[0].difference is not None
        ]
        if lines:
            title = f"Steering against best-of-n, at equal {'denoiser rows' if unit == 'rows' else unit}"
            yield _difference_table(results, title, lines, how)


def _beyond(matched: Matched) -> str:
    """Say which methods cost more or less than any best-of-n that was run, "" if none does."""
    said = [
        f"{method.name} at N = {method.settings.particles} costs {number(items[0].share)} times the {report.COSTS[items[0].axis]} "
        f"of {other} at N = {items[0].particles:.0f}"
        for method, other, items in matched
        if items[0].difference is None
    ]
    return f"Nothing was run at such a cost, so there is no comparison: {'; '.join(said)}." if said else ""


def _at_equal_n(results: Results) -> Iterator[Compared]:
    for ours, theirs in measures.equal_n(results):
        rows, others = results.of(ours.key), results.of(theirs.key)
        name, particles = report.pair_name(ours, theirs)
        found = [measures.difference(rows, others, judge) for judge in results.suite.judges]
        yield name.replace(" - ", " \u2212 "), particles, [*found, measures.paired(rows, others, measures.rewards)]


def _difference_table(results: Results, title: str, lines: Sequence[Compared], note: str) -> dict[str, Any]:
    judges = [*results.suite.judges, None]
    columns = [[item for item in column if item is not None] for column in zip(*(found for *_, found in lines), strict=True)]
    scales = [strip_axis(column, zero=True) for column in columns]
    nothing = {"mean": "", "ends": "", "strip": ""}
    return {
        "title": title,
        "note": note,
        "lines": [
            {
                "name": name,
                "particles": particles,
                "cells": [
                    _cell(item, judge, scale, None, difference=True) if item else nothing
                    for item, judge, scale in zip(found, judges, scales, strict=True)
                ],
            }
            for name, particles, found in lines
        ],
    }


def _cell(interval: Interval, judge: Judge | None, scale: Any, series: int | None, difference: bool = False) -> dict[str, Any]:
    """Fill a cell with a mean, the ends of its interval and their drawing; without a judge it is the reward."""
    sign = "+" if difference else ""

    def shown(value: float) -> str:
        if not math.isfinite(value):
            return number(value)
        return (f"{value:{sign}.2f}" if judge is None else report.shown_value(value, judge, sign)).replace("-", "\u2212")

    return {
        "mean": shown(interval.mean),
        "ends": "" if math.isnan(interval.low) else f"[{shown(interval.low)}, {shown(interval.high)}]",
        "strip": strip(interval, scale, series, zero=difference) if scale and math.isfinite(interval.mean) else "",
    }


def _lineages(results: Results, there: Sequence[Method], prompts: int, texts: bool) -> Iterator[dict[str, Any]]:
    for method in there:
        kept = [row for row in results.of(method.key) if row.get("lineage") and len(row["lineage"]["k"]) > 1]
        for row in kept[:prompts]:
            name = f"{method.name}, N = {method.settings.particles}"
            yield {
                "name": name,
                "resamplings": sum(row["lineage"]["resampled"]),
                "prompt": visible(row["prompt"]),
                **_lineage(row["lineage"], f"{name}, prompt “{row['prompt']}”", texts),
                "played": _played(lineages.played(row["lineage"], row["prompt"])) if texts else [],
            }


def _opened(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mark the lineage that is open at first: the first that resampled, so that there is something to see."""
    first = next((place for place, item in enumerate(found) if item["resamplings"]), 0)
    return [{**item, "open": place == first} for place, item in enumerate(found)]


def _lineage(lineage: Lineage, title: str, texts: bool = True) -> dict[str, Any]:
    """Prepare a lineage for the template.

    Raises:
        RunError: the data in the run's file cannot be drawn.
    """
    try:
        lineages.check(lineage)
    except ValueError as error:
        raise RunError(f"a lineage is damaged: {error}") from error
    kept = [[visible(text) for text in step] if texts else [] for step in lineage["texts"]]
    low, high = reward_range(lineage)
    return {
        "words": in_words(lineage),
        "noun": "image" if "images" in lineage else "text",
        "pictures": any(lineage.get("images", ())),
        "tree": tree(lineage, visible(title)),
        "low": low,
        "high": high,
        "data": {**{name: lineage[name] for name in ("k", "ancestors", "rewards", "weights", "chosen")}, "texts": kept},
    }


def _samples(results: Results, there: Sequence[Method], texts: int) -> Iterator[dict[str, Any]]:
    seed = results.suite.seeds[0]
    for place, prompt in enumerate(results.suite.prompts):
        rows = [
            {
                "name": method.name,
                "particles": method.settings.particles,
                "text": visible(row["continuation"]).strip(),
                "reward": number(from_json(row["reward"])),
                "judged": [report.verdict(row, judge) for judge in results.suite.judges],
            }
            for method in there
            for row in _some(results.of(method.key), place, seed, texts)
        ]
        if rows:
            yield {"text": visible(prompt), "rows": rows}


def _some(rows: Sequence[Row], prompt: int, seed: int, texts: int) -> list[Row]:
    return [row for row in rows if (row["prompt_index"], row["seed"]) == (prompt, seed) and row["sample"] < texts]


def _population(item: Mapping[str, Any], samples: int) -> dict[str, Any]:
    lineage, asked = item["lineage"], item["template"] or item["prompt"]
    which = f"population {item['sample'] + 1} of {samples}" if samples > 1 else ""
    ess, particles = lineage["ess"][-1], len(item["particles"])
    log_z = from_json(item["log_z"]) if item["log_z"] is not None or lineage["chosen"] is None else math.nan  # none is estimated
    return {
        "prompt": visible(asked),
        "which": which,
        "facts": [
            ("log Ẑ", number(log_z, 4)),
            ("weighings, resamplings", f"{len(lineage['k'])}, {sum(lineage['resampled'])}"),
            ("effective sample size at the end", f"{ess:.1f} of {particles}"),
            ("denoiser rows, reward calls", f"{item['denoiser_rows']:.0f}, {item['reward_calls']:.0f}"),
            ("seconds", f"{item['seconds']:.2f}"),
        ],
        **_lineage(lineage, f"“{asked}”{', ' * bool(which)}{which}", texts="events" not in item),  # the player has them
        "played": _played(item.get("events", ())),
        "rows": [
            {
                "particle": place,
                "chosen": place == lineage["chosen"],
                "text": visible(row["continuation"]).strip(),
                "image": row.get("image"),
                "rewards": [number(from_json(value), 4) for value in row["rewards"]],
                "weight": f"{row['weight']:.3f}",
                "ancestor": row["ancestor"],
            }
            for place, row in enumerate(item["particles"])
        ],
    }


def _played(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return events as a page plays them: no text holds what a browser would drop or obey, and numbers are short."""

    def seen(value: Any) -> Any:
        if isinstance(value, str):
            return visible(value)
        if isinstance(value, float):
            return float(f"{value:.5g}")
        if isinstance(value, Mapping):
            return {name: seen(item) for name, item in value.items()}
        return [seen(item) for item in value] if isinstance(value, list) else value

    return [{name: seen(value) for name, value in event.items() if name != "ledger"} for event in events]


def visible(text: str) -> str:
    """Make control characters of a text visible (U+2400 and on), so that no browser drops or obeys them.

    Example:
        >>> visible("a\\x00b\\n")
        'a␀b\\n'
    """
    return "".join(_visible(character) if unicodedata.category(character) == "Cc" else character for character in text)


def _visible(character: str) -> str:
    if character in "\n\t":
        return character
    return chr(0x2400 + ord(character)) if ord(character) < 0x20 else "\u2421" if character == "\x7f" else "\ufffd"


def _sessions(folder: Path) -> str:
    try:
        return (folder / "sessions.jsonl").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("fktext_evals.reporting"), autoescape=True, undefined=StrictUndefined, trim_blocks=True)


@cache
def _asset(name: str) -> str:
    return (resources.files("fktext_evals.reporting") / "templates" / name).read_text(encoding="utf-8")


def style() -> str:
    """Return the style that the pages share."""
    return _asset("page.css")


def _render(template: str, **values: Any) -> str:
    from markupsafe import Markup

    script = f"{player.asset('player.js')}\n{_asset('page.js')}"
    return (
        _environment()
        .get_template(template)
        .render(
            version=fktext.__version__,
            style=Markup(f"{_asset('page.css')}\n{player.asset('player.css')}"),
            script=Markup(script),
            script_hash=player.digest(script),
            **values,
        )
    )
