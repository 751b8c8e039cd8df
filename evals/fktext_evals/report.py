"""What a run shows: tables with intervals, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from statistics import fmean

from fktext.files.writing import from_json
from fktext_evals import compute, metrics
from fktext_evals.results import Results, Row, key
from fktext_evals.statistics import Interval, mean_interval, share_interval
from fktext_evals.suite import Judge, Method, Suite


def share(rows: Sequence[Row], judge: Judge) -> Interval:
    """Return the share of texts with p(label) above the judge's threshold."""
    return share_interval(verdicts(rows, judge), [row["prompt_index"] for row in rows])


def judged(rows: Sequence[Row], judge: Judge) -> Interval:
    """Sum up a judge's verdicts by its kind: the share above its threshold, the mean perplexity, or the mean of its values."""
    return share(rows, judge) if judge.kind == "share" else _mean_interval(verdicts(rows, judge), rows)


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
                yield f"{ours.label}_gap_{other.name}", _mean_interval([one - two for one, two in both], rows)


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
    return _mean_interval(rewards(rows), rows)


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
    ours, theirs = ({key(row)[2:]: value for row, value in zip(side, measure(side), strict=True)} for side in (rows, others))
    if not (both := [pair for pair in ours if pair in theirs]):
        return None
    return compute.contrast([ours, theirs], [1, -1], both, shares=shares)


def distinct(rows: Sequence[Row]) -> list[float]:
    """Return distinct 1-, 2- and 3-grams per word of the texts of a prompt and seed, means over prompts and seeds."""
    return [together(rows, partial(metrics.distinct_n_words, n=n)).mean for n in (1, 2, 3)]


def together(rows: Sequence[Row], metric: Callable[[Sequence[str]], float]) -> Interval:
    """Take the mean over prompts and seeds of a metric of the texts of one prompt and seed."""
    groups = metrics.by_prompt(rows, [(row["prompt_index"], row["seed"]) for row in rows])
    return _mean_interval([metric([row["continuation"] for row in group]) for group in groups], [group[0] for group in groups])


def markdown(results: Results, texts: int = 0) -> str:
    """Write the report of a run.

    Args:
        results: from `fktext_evals.run` or `fktext_evals.results.read`.
        texts: how many texts to show of each prompt and method.
    """
    lines = [f"# {results.suite.name}: {results.suite.description}", "", *_about(results), "", *_table(results), ""]
    if pairs := equal_n(results):
        title = "Difference between methods at equal N, over the same prompts and seeds (shares in percentage points):"
        header = ["difference", "N", *map(heading, results.suite.judges)]
        lines += [title, "", *table(header, _differences(results, pairs)), ""]
    if costs := equal_costs(results):
        lines += [EQUAL_COST, "", *table(equal_costs_header(results), costs), ""]
    lines += [
        f"{INTERVALS} dist-n: distinct n-grams per word among the texts of a prompt. "
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
        + returned(suite.methods),
        *(f"- judge {judge.name}: {judge.reward}; {counts(judge)}" for judge in suite.judges),
    ]
    if results.missing:
        about.append(f"- **unfinished**: {results.missing} of {suite.texts} texts are missing")
    if results.died:
        about.append(f"- **died**: {died(results)}; {DIED}")
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


def _table(results: Results) -> Iterator[str]:
    header = ["method", "N", *map(heading, results.suite.judges)]
    rows = []
    for method in results.suite.methods:
        if not (found := results.of(method.key)):
            continue
        rows.append(
            [
                method.name,
                str(method.settings.particles),
                *(shown(judged(found, judge), judge) for judge in results.suite.judges),
                "/".join(f"{value:.2f}" for value in distinct(found)) if results.suite.modality == "text" else "-",
                f"{mean(found, 'denoiser_rows'):.1f}",
                f"{mean(found, 'reward_calls'):.1f}",
                f"{mean(found, 'seconds'):.2f}",
            ]
        )
    return table([*header, "dist-1/2/3", "rows/text", "reward calls/text", "seconds/text"], rows)


Pair = tuple[Method, Method]


def equal_n(results: Results) -> list[Pair]:
    """Pair each steered method with each best-of-n of as many particles."""
    return [pair for pair in _steered_and_not(results) if pair[0].settings.particles == pair[1].settings.particles]


COSTS: dict[compute.Axis, str] = {"denoiser_rows": "rows", "reward_calls": "reward calls", "seconds": "seconds"}
INTERVALS = (
    "Intervals are 95 %, by a bootstrap that draws prompts, wider for shares and their differences where hits are too few for one."
)
EQUAL_COST = (
    "The same at equal cost per text. Best-of-n is interpolated between the two N next to that cost, linearly in its logarithm; "
    "N' is where that is. Where the cost is outside of what was run, nothing is compared:"
)


def equal_costs_header(results: Results) -> list[str]:
    """Head the columns of `equal_costs`."""
    return ["difference", "N", "at equal", "N'", *map(heading, results.suite.judges)]


def equal_costs(results: Results) -> list[list[str]]:
    """Give a line of cells for each steered method and kind of cost, against best-of-n of several N."""
    sizes = Counter(method.name for method in results.suite.methods)
    lines = []
    for method, other, found in at_equal_cost(results):
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


def at_equal_cost(results: Results, *more: compute.Measure) -> Iterator[tuple[Method, str, list[compute.Matched]]]:
    """Compare each steered method with each best-of-n at its own cost, by axis: as each judge sees it, and by more measures."""
    measures: list[tuple[compute.Measure, bool]] = [
        *((partial(verdicts, judge=judge), judge.kind == "share") for judge in results.suite.judges),
        *((measure, False) for measure in more),
    ]
    others = dict.fromkeys(
        item.name for item in results.suite.methods if item.settings.method == "best-of-n" and item.returns == "best"
    )
    for method in results.suite.methods:
        for other, axis in product(others if method.settings.method == "fk" else (), COSTS):
            found = [compute.at_equal_cost(results, method, other, measure, axis, shares=shares) for measure, shares in measures]
            if kept := [item for item in found if item is not None]:
                yield method, other, kept


def _cells(differences: Iterable[Interval | None], judges: Sequence[Judge]) -> Iterator[str]:
    for item, judge in zip(differences, judges, strict=True):
        yield shown(item, judge, sign="+") if item else ""


def _steered_and_not(results: Results) -> Iterator[Pair]:
    there = [method for method in results.suite.methods if results.of(method.key)]
    for method in there:
        for other in there:
            if (method.settings.method, other.settings.method) == ("fk", "best-of-n"):
                yield method, other


def pair_name(method: Method, other: Method) -> tuple[str, str]:
    """Name a difference, and its numbers of particles."""
    ours, theirs = method.settings.particles, other.settings.particles
    return f"{method.name} - {other.name}", str(ours) if ours == theirs else f"{ours} - {theirs}"


def _differences(results: Results, pairs: Sequence[Pair]) -> Iterator[list[str]]:
    """Yield a line for each pair of methods."""
    for method, other in pairs:
        found = [difference(results.of(method.key), results.of(other.key), judge) for judge in results.suite.judges]
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
                line |= spread(name, judged(rows, judge))
                if judge.kind == "perplexity" and all(judge.name in row["judged_tokens"] for row in rows):
                    line |= spread(f"{name}_token_weighted", token_perplexity(rows, judge))
                continue
            chances = [math.exp(from_json(row["judges"][judge.name])) for row in rows]
            line |= spread(f"{name}_share", share(rows, judge))
            line |= spread(f"{name}_mean", mean_interval(chances, prompts))
            highest = [max(group) for group in metrics.by_prompt(chances, prompts)]
            line |= spread(f"{name}_expected_max", mean_interval(highest, list(dict.fromkeys(prompts))))
        line |= {name: value for item in gaps(results.suite, rows) for name, value in spread(*item).items()}
        line |= spread("reward", mean_reward(rows))
        if results.suite.modality == "text":
            for n in (1, 2, 3):
                line |= spread(f"distinct_{n}_words", together(rows, partial(metrics.distinct_n_words, n=n)))
                line |= spread(f"distinct_{n}", together(rows, partial(metrics.distinct_n, n=n)))
            line |= spread("self_bleu", together(rows, metrics.self_bleu))
            line |= spread("entropy", _mean_interval(list(map(metrics.entropy, texts)), rows))
            line |= spread("repetition", _mean_interval(list(map(metrics.repetition, texts)), rows))
        for name in ("unique_roots", "denoiser_rows", "reward_requests", "reward_calls", "seconds"):
            line |= spread(name, _mean_interval([row[name] for row in rows], rows))
        yield line


def _mean_interval(values: Sequence[float], rows: Sequence[Row]) -> Interval:
    """Take a mean, without ends where a value is not finite: it is -inf or inf then."""
    if not all(map(math.isfinite, values)):
        return Interval(fmean(values), math.nan, math.nan)
    return mean_interval(values, [row["prompt_index"] for row in rows])


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def mean(rows: Sequence[Row], name: str) -> float:
    """Return the mean of a column."""
    return fmean(row[name] for row in rows)


def heading(judge: Judge, interval: str = " [95% CI]") -> str:
    """Head a judge's column."""
    return f"{judge.label}{' %' if judge.kind == 'share' else ''}, {judge.name} judge{interval}"


def verdict(row: Row, judge: Judge) -> str:
    """Write what a judge says of a text: its probability, the perplexity, or its value."""
    value = from_json(row["judges"][judge.name])
    return f"{math.exp(value):.3f}" if judge.kind == "share" else shown_value(verdicts([row], judge)[0], judge)


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


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |"
