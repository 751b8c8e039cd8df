"""What a run shows: tables with intervals, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial

from fktext.files.writing import from_json
from fktext_evals import compute, measures, metrics
from fktext_evals.reporting import blocks
from fktext_evals.reporting.blocks import Report, Table
from fktext_evals.running.results import Results, Row
from fktext_evals.statistics import Interval, mean_interval
from fktext_evals.suites.suite import Judge, Method, counted


def markdown(results: Results, texts: int = 0) -> str:
    """Write the report of a run.

    Args:
        results: from `fktext_evals.run` or `fktext_evals.running.results.read`.
        texts: how many texts to show of each prompt and method.
    """
    return blocks.markdown(report(results, texts))


def report(results: Results, texts: int = 0) -> Report:
    """Put a run's report together, as `fktext_evals.reporting.blocks` writes it down; see `markdown`."""
    from fktext_evals.reporting.verdict import verdict

    suite = results.suite
    return Report(
        title=f"{suite.name}: {suite.description}",
        verdict=verdict(results),
        about=_about(results),
        tables=[table for table in _tables(results) if table.rows],
        notes=f"{INTERVALS} dist-n: distinct n-grams per word among the texts of a prompt. "
        "Rows go through the denoiser, reward calls reach the reward models; both, and seconds, are per returned text.",
        texts=list(_texts(results, texts)) if texts else [],
    )


def _tables(results: Results) -> Iterator[Table]:
    """Yield the tables of a run; one without rows has nothing to show."""
    judges = list(map(heading, results.suite.judges))
    yield _means(results)
    pairs = list(_differences(results, measures.equal_n(results)))
    title = "Difference between methods at equal N, over the same prompts and seeds (shares in percentage points)"
    yield Table(title, ["difference", "N", *judges], pairs)
    yield Table(EQUAL_COST, ["difference", "N", "at equal", "N'", *judges], equal_costs(results))


def _about(results: Results) -> list[str]:
    suite, model = results.suite, results.run["model"]
    about = [
        f"model {model['name']} ({model['digest']}, {model['dtype']}), steered by {', '.join(suite.rewards)}; "
        f"fktext {results.run['fktext']}",
        f"{counted(len(suite.prompts), 'prompt')} x {counted(suite.samples, suite.modality)} per method and seed "
        f"({', '.join(map(str, suite.seeds))}); " + returned(suite.methods),
        *(f"judge {judge.name}: {judge.reward}; {counts(judge)}" for judge in suite.judges),
    ]
    if results.missing:
        about.append(f"**unfinished**: {results.missing} of {suite.texts} texts are missing")
    if results.died:
        about.append(f"**died**: {died(results)}; {DIED}")
    return about


DIED = "all texts of such a population have reward -inf, none is returned, and all means are over the other populations"


def died(results: Results) -> str:
    """Say how many populations of each method died."""
    cells = ((method, results.populations(method.key)) for method in results.suite.methods)
    return ", ".join(
        f"{count} of {len(rows)} populations of {method.name} at N = {method.settings.particles}"
        for method, rows in cells
        if (count := sum(row["text"] is None for row in rows))
    )


def returned(methods: Sequence[Method]) -> str:
    """Say which text of its population a method returns."""
    said = {"best": "the best of each population", "draw": "one of each population, drawn by weight"}
    kinds = list(dict.fromkeys(method.returns for method in methods))
    if len(kinds) == 1:
        return said[kinds[0]]
    drawn = ", ".join(dict.fromkeys(method.name for method in methods if method.returns == "draw"))
    return f"{said['best']}, but for {drawn}: one drawn by weight"


def counts(judge: Judge) -> str:
    """Say what a judge's number is."""
    if judge.kind == "share":
        return f"{judge.label} when p > {judge.threshold:g}"
    return f"{judge.label}, the mean of {'exp(-value)' if judge.kind == 'perplexity' else 'its values'}"


def _means(results: Results) -> Table:
    rows = []
    for method in results.suite.methods:
        if not (found := results.of(method.key)):
            continue
        rows.append(
            [
                method.name,
                str(method.settings.particles),
                *(shown(measures.judged(found, judge), judge) for judge in results.suite.judges),
                "/".join(f"{value:.2f}" for value in measures.distinct(found)) if results.suite.modality == "text" else "-",
                f"{measures.mean(found, 'denoiser_rows'):.1f}",
                f"{measures.mean(found, 'reward_calls'):.1f}",
                f"{measures.mean(found, 'seconds'):.2f}",
            ]
        )
    header = ["method", "N", *map(heading, results.suite.judges), "dist-1/2/3", "rows/text", "reward calls/text", "seconds/text"]
    return Table("What the judges say, and what a text costs", header, rows)


COSTS: dict[compute.Axis, str] = {"denoiser_rows": "rows", "reward_calls": "reward calls", "seconds": "seconds"}
INTERVALS = (
    "Intervals are 95 %, by a bootstrap that draws prompts, wider for shares and their differences where hits are too few for one."
)
EQUAL_COST = (
    "The same at equal cost per text. Best-of-n is interpolated between the two N next to that cost, linearly in its logarithm; "
    "N' is where that is. Where the cost is outside of what was run, nothing is compared"
)


def equal_costs(results: Results) -> list[list[str]]:
    """Give a line of cells for each steered method and kind of cost, against best-of-n of several N."""
    sizes = Counter(method.name for method in results.suite.methods)
    lines = []
    for method, other, found in measures.against_best_of_n(results):
        if sizes[other] == 1:
            continue
        first, unit = found[0], COSTS[found[0].axis]
        outside = f"{first.share:.1f} x the {unit} of N = {first.particles:.0f}"
        lines.append(
            [
                f"{method.name} - {other}",
                str(method.settings.particles),
                f"{first.cost:.{2 if unit == 'seconds' else 1}f} {unit}",
                f"{first.particles:.1f}" if first.difference else outside,
                *_cells([item.difference for item in found], results.suite.judges),
            ]
        )
    return lines


def _cells(differences: Iterable[Interval | None], judges: Sequence[Judge]) -> Iterator[str]:
    for item, judge in zip(differences, judges, strict=True):
        yield shown(item, judge, sign="+") if item else ""


def pair_name(method: Method, other: Method) -> tuple[str, str]:
    """Name a difference, and its numbers of particles."""
    ours, theirs = method.settings.particles, other.settings.particles
    return f"{method.name} - {other.name}", str(ours) if ours == theirs else f"{ours} - {theirs}"


def _differences(results: Results, pairs: Sequence[tuple[Method, Method]]) -> Iterator[list[str]]:
    """Yield a line for each pair of methods."""
    for method, other in pairs:
        found = [measures.difference(results.of(method.key), results.of(other.key), judge) for judge in results.suite.judges]
        yield [*pair_name(method, other), *_cells(found, results.suite.judges)]


def _texts(results: Results, number: int) -> Iterator[str]:
    if results.suite.warning:
        yield f"**{results.suite.warning}**"
    for method in results.suite.methods:
        yield f"\n## {method.name}, N = {method.settings.particles}\n"
        for row in results.of(method.key):
            if row["sample"] < number:
                said = ", ".join(f"{judge.name} {verdict(row, judge)}" for judge in results.suite.judges)
                yield f"- `{json.dumps(row['text'], ensure_ascii=False).replace('`', chr(39))}` ({said})"


def as_csv(runs: Sequence[Results]) -> str:
    """Write a line for each run and method; shares and means with their 95% intervals, between 0 and 1."""
    return csv_of([line for results in runs for line in _csv_lines(results)])


def csv_of(lines: Sequence[Mapping[str, object]]) -> str:
    """Write lines as CSV, with every column that one of them has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(field for line in lines for field in line)), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _csv_lines(results: Results) -> Iterator[dict[str, object]]:
    for method in results.suite.methods:
        rows, populations = results.of(method.key), results.populations(method.key)
        if not populations:
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
            "missing": len(results.suite.prompts) * len(results.suite.seeds) * results.suite.samples - len(populations),
        }
        if results.died:
            line["died"] = len(populations) - len(rows)
        if not rows:
            yield line
            continue
        for judge in results.suite.judges:
            name = f"{judge.label}_{judge.name}"
            if judge.kind != "share":
                line |= spread(name, measures.judged(rows, judge))
                if judge.kind == "perplexity" and all(judge.name in row["judged_tokens"] for row in rows):
                    line |= spread(f"{name}_token_weighted", measures.token_perplexity(rows, judge))
                continue
            chances = [math.exp(from_json(row["judges"][judge.name])) for row in rows]
            line |= spread(f"{name}_share", measures.share(rows, judge))
            line |= spread(f"{name}_mean", mean_interval(chances, prompts))
            highest = [max(group) for group in metrics.by_prompt(chances, prompts)]
            line |= spread(f"{name}_expected_max", mean_interval(highest, list(dict.fromkeys(prompts))))
        line |= {name: value for item in measures.gaps(results.suite, rows) for name, value in spread(*item).items()}
        line |= spread("reward", measures.mean_reward(rows))
        if results.suite.modality == "text":
            for n in (1, 2, 3):
                line |= spread(f"distinct_{n}_words", measures.together(rows, partial(metrics.distinct_n_words, n=n)))
                line |= spread(f"distinct_{n}", measures.together(rows, partial(metrics.distinct_n, n=n)))
            line |= spread("self_bleu", measures.together(rows, metrics.self_bleu))
            line |= spread("entropy", measures.mean_over_texts(list(map(metrics.entropy, texts)), rows))
            line |= spread("repetition", measures.mean_over_texts(list(map(metrics.repetition, texts)), rows))
        for name in ("unique_roots", "denoiser_rows", "reward_requests", "reward_calls", "seconds"):
            line |= spread(name, measures.mean_over_texts([row[name] for row in rows], rows))
        yield line


def heading(judge: Judge, interval: str = " [95% CI]") -> str:
    """Head a judge's column."""
    return f"{judge.label}{' %' if judge.kind == 'share' else ''}, {judge.name} judge{interval}"


def verdict(row: Row, judge: Judge) -> str:
    """Write what a judge says of a text: its probability, the perplexity, or its value."""
    value = from_json(row["judges"][judge.name])
    return f"{math.exp(value):.3f}" if judge.kind == "share" else shown_value(measures.verdicts([row], judge)[0], judge)


def shown_value(value: float, judge: Judge | None, sign: str = "") -> str:
    """Write a number of the kind that a judge gives, shares in percent; without a judge it is a reward."""
    kind = "mean" if judge is None else judge.kind
    return f"{100 * value:{sign}.1f}" if kind == "share" else f"{value:{sign}.{1 if kind == 'perplexity' else 3}f}"


def shown(interval: Interval, judge: Judge | None, sign: str = "") -> str:
    """Write a mean with its interval."""
    mean, low, high = (shown_value(value, judge, sign) for value in (interval.mean, interval.low, interval.high))
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"


def spread(name: str, interval: Interval) -> dict[str, object]:
    """Spread an interval over columns of a table."""
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
