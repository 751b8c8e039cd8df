"""What a run shows: tables with intervals, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

from fktext_evals import metrics
from fktext_evals.results import Results, Row, from_json, key
from fktext_evals.statistics import Interval, mean_interval, share_interval
from fktext_evals.suite import Judge, Method


def share(rows: Sequence[Row], judge: Judge) -> Interval:
    """The share of texts with p(label) above the judge's threshold."""
    return share_interval(_hits(rows, judge), [row["prompt_index"] for row in rows])


def difference(rows: Sequence[Row], others: Sequence[Row], judge: Judge) -> Interval | None:
    """The share of `rows` minus that of `others`, over the prompts, seeds and samples that both have; None if there are none."""
    hits, others_hits = ({key(row)[2:]: hit for row, hit in zip(side, _hits(side, judge), strict=True)} for side in (rows, others))
    if not (both := [pair for pair in hits if pair in others_hits]):
        return None
    return mean_interval([hits[pair] - others_hits[pair] for pair in both], [prompt for _, prompt, _ in both])


def distinct(rows: Sequence[Row], metric: Callable[[Sequence[str], int], float] = metrics.distinct_n_words) -> list[float]:
    """Distinct 1-, 2- and 3-grams of the texts of a prompt and seed, means over prompts and seeds."""
    groups = metrics.by_prompt([row["continuation"] for row in rows], [(row["prompt_index"], row["seed"]) for row in rows])
    return [fmean(metric(group, n) for group in groups) for n in (1, 2, 3)]


def markdown(results: Results, texts: int = 0) -> str:
    """The report of a run.

    Args:
        results: from `fktext_evals.run` or `fktext_evals.results.read`.
        texts: how many texts to show of each prompt and method.
    """
    lines = [f"# {results.suite.name}: {results.suite.description}", "", *_about(results), "", *_table(results), ""]
    if compared := list(_differences(results)):
        lines += [
            "Difference between methods at equal N in percentage points, over the same prompts and seeds:",
            "",
            *_markdown_table(["difference", "N", *(f"{_title(judge)}" for judge in results.suite.judges)], compared),
            "",
        ]
    lines += [
        "Intervals are 95 %, by a bootstrap that draws prompts. dist-n: distinct n-grams per word among the texts of a prompt. "
        "Rows go through the denoiser, reward calls reach the reward models; both, and seconds, are per returned text.",
        "",
    ]
    if texts:
        lines += [*_texts(results, texts), ""]
    return "\n".join(lines)


def _about(results: Results) -> list[str]:
    suite, model = results.suite, results.run["model"]
    about = [
        f"- model {model['name']} ({model['digest']}, {model['dtype']}), steered by {', '.join(suite.rewards)}; "
        f"fktext {results.run['fktext']}",
        f"- {len(suite.prompts)} prompts x {suite.samples} texts per method and seed ({', '.join(map(str, suite.seeds))}); "
        + ("the best of each population" if suite.returns == "best" else "one of each population, drawn by weight"),
        *(f"- judge {judge.name}: {judge.reward}; {judge.label} when p > {judge.threshold:g}" for judge in suite.judges),
    ]
    if results.missing:
        about.append(f"- **unfinished**: {results.missing} of {suite.texts} texts are missing")
    return about


def _table(results: Results) -> Iterator[str]:
    header = ["method", "N", *(_title(judge) for judge in results.suite.judges)]
    rows = []
    for method in results.suite.methods:
        if not (found := results.of(method.key)):
            continue
        rows.append(
            [
                method.name,
                str(method.settings.particles),
                *(_percent(share(found, judge)) for judge in results.suite.judges),
                "/".join(f"{value:.2f}" for value in distinct(found)),
                f"{_mean(found, 'denoiser_rows'):.1f}",
                f"{_mean(found, 'reward_calls'):.1f}",
                f"{_mean(found, 'seconds'):.2f}",
            ]
        )
    return _markdown_table([*header, "dist-1/2/3", "rows/text", "reward calls/text", "seconds/text"], rows)


def _differences(results: Results) -> Iterator[list[str]]:
    """A line for each steered method and each best-of-n with as many particles."""
    for method in results.suite.methods:
        for other in results.suite.methods:
            if _compared(method, other):
                found = [difference(results.of(method.key), results.of(other.key), judge) for judge in results.suite.judges]
                yield [
                    f"{method.name} - {other.name}",
                    str(method.settings.particles),
                    *(_percent(item, sign="+") if item else "" for item in found),
                ]


def _compared(method: Method, other: Method) -> bool:
    kinds = method.settings.method, other.settings.method
    return kinds == ("fk", "best-of-n") and method.settings.particles == other.settings.particles


def _texts(results: Results, number: int) -> Iterator[str]:
    if results.suite.warning:
        yield f"**{results.suite.warning}**"
    for method in results.suite.methods:
        yield f"\n## {method.name}, N = {method.settings.particles}\n"
        for row in results.of(method.key):
            if row["sample"] < number:
                said = ", ".join(f"{name} {math.exp(from_json(value)):.3f}" for name, value in row["judges"].items())
                yield f"- `{json.dumps(row['text'], ensure_ascii=False).replace('`', chr(39))}` ({said})"


def as_csv(runs: Sequence[Results]) -> str:
    """A line for each run and method; shares and means with their 95% intervals, between 0 and 1."""
    lines = [line for results in runs for line in _csv_lines(results)]
    fields = list(dict.fromkeys(field for line in lines for field in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_lines(results: Results) -> Iterator[dict[str, object]]:
    for method in results.suite.methods:
        rows = results.of(method.key)
        if not rows:
            continue
        prompts = [row["prompt_index"] for row in rows]
        texts = [row["continuation"] for row in rows]
        line: dict[str, object] = {
            "run": str(results.folder),
            "suite": results.suite.name,
            "model": results.run["model"]["name"],
            "method": method.name,
            "particles": method.settings.particles,
            "texts": len(rows),
            "missing": len(results.suite.prompts) * len(results.suite.seeds) * results.suite.samples - len(rows),
        }
        for judge in results.suite.judges:
            name = f"{judge.label}_{judge.name}"
            chances = [math.exp(from_json(row["judges"][judge.name])) for row in rows]
            line |= _spread(f"{name}_share", share(rows, judge))
            line |= _spread(f"{name}_mean", mean_interval(chances, prompts))
            line[f"{name}_expected_max"] = metrics.mean_over_prompts(max, chances, prompts)
        line |= _spread("reward", mean_interval([from_json(row["reward"]) for row in rows], prompts))
        line |= {f"distinct_{n}_words": value for n, value in enumerate(distinct(rows), 1)}
        line |= {f"distinct_{n}": value for n, value in enumerate(distinct(rows, metrics.distinct_n), 1)}
        line["entropy"] = fmean(map(metrics.entropy, texts))
        line["repetition"] = fmean(map(metrics.repetition, texts))
        for name in ("unique_roots", "denoiser_rows", "reward_requests", "reward_calls", "seconds"):
            line[name] = _mean(rows, name)
        yield line


def _hits(rows: Sequence[Row], judge: Judge) -> list[int]:
    return [int(from_json(row["judges"][judge.name]) > judge.log_threshold) for row in rows]


def _mean(rows: Sequence[Row], name: str) -> float:
    return fmean(row[name] for row in rows)


def _title(judge: Judge) -> str:
    return f"{judge.label} %, {judge.name} judge [95% CI]"


def _percent(interval: Interval, sign: str = "") -> str:
    mean, low, high = (f"{100 * value:{sign}.1f}" for value in (interval.mean, interval.low, interval.high))
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def _spread(name: str, interval: Interval) -> dict[str, object]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |"
