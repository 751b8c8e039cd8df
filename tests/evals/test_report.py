"""Reports: the numbers in the tables are those of the rows."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from typer.testing import CliRunner, Result

from fktext_evals import Results, as_csv, markdown, measures, metrics
from fktext_evals.reporting import report
from fktext_evals.reporting.verdict import verdict


def cells(text: str, start: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown(whole: Results) -> None:
    text = markdown(whole)
    for method, size in (("base", 1), ("best-of-n", 2), ("fk", 3)):
        found = cells(text, f"{method} | {size}")
        rows = whole.of((method, size))
        share = fmean(math.exp(row["judges"]["steering"]) > 0.2 for row in rows)
        assert found[2].startswith(f"{100 * share:.1f} [")
        assert found[5] == f"{fmean(row['denoiser_rows'] for row in rows):.1f}"
        assert len(found[4].split("/")) == 3
    heading = next(line for line in text.splitlines() if line.startswith("| method"))
    assert heading == (
        "| method | N | e-ful %, steering judge [95% CI] | a-ful %, held-out judge [95% CI] | dist-1/2/3 | rows/text | "
        "reward calls/text | seconds/text |"
    )
    assert "unfinished" not in text
    assert not any(row["continuation"] in text for row in whole.rows if len(row["continuation"]) > 12)


def test_differences_are_paired_and_at_equal_n(whole: Results) -> None:
    text = markdown(whole)
    found = cells(text, "fk - best-of-n | 2")
    hits = [fmean(math.exp(row["judges"]["steering"]) > 0.2 for row in whole.of((name, 2))) for name in ("fk", "best-of-n")]
    assert found[2].startswith(f"{100 * (hits[0] - hits[1]):+.1f} [")
    assert "fk - best-of-n | 3" not in text.partition(report.EQUAL_COST)[0]


def test_an_unfinished_run_compares_what_both_methods_have(whole: Results) -> None:
    steered, best = whole.of(("fk", 2)), whole.of(("best-of-n", 2))
    judge = whole.suite.judges[0]
    part = measures.difference(steered[:6], best, judge)
    assert part == measures.difference(steered[:6], best[:6], judge)
    assert measures.difference(steered[:2], best[2:], judge) is None
    text = markdown(replace(whole, rows=whole.rows[:40]))
    assert "**unfinished**: 8 of 48 texts are missing" in text


def test_the_verdict_is_on_top(whole: Results) -> None:
    assert markdown(whole).splitlines()[2] == f"**{verdict(whole)}**"
    assert markdown(replace(whole, rows=[])).splitlines()[2].startswith("- model")


def test_texts_only_when_asked_for_and_after_a_warning(whole: Results) -> None:
    text = markdown(replace(whole, suite=replace(whole.suite, warning="Mind the gap.")), texts=1)
    assert text.index("Mind the gap.") < text.index("## base, N = 1")
    shown = [line for line in text.splitlines() if line.startswith("- `")]
    assert len(shown) == 4 * 3 * 2  # methods, prompts, seeds
    assert json.dumps(whole.rows[0]["text"]) in text


def test_csv(whole: Results) -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv([whole, whole]))))
    assert len(lines) == 8
    line = lines[3]
    assert (line["method"], line["particles"], line["texts"], line["missing"]) == ("fk", "3", "12", "0")
    rows = whole.of(("fk", 3))
    chances = [math.exp(row["judges"]["held-out"]) for row in rows]
    assert float(line["a-ful_held-out_mean"]) == pytest.approx(fmean(chances))
    assert float(line["a-ful_held-out_mean_low"]) < fmean(chances) < float(line["a-ful_held-out_mean_high"])
    expected = fmean(max(chance for chance, row in zip(chances, rows, strict=True) if row["prompt_index"] == n) for n in range(3))
    assert float(line["a-ful_held-out_expected_max"]) == pytest.approx(expected)
    assert float(line["unique_roots"]) == fmean(row["unique_roots"] for row in rows)
    groups = [
        [row["continuation"] for row in rows if (row["prompt_index"], row["seed"]) == (n, seed)]
        for n in range(3)
        for seed in (0, 7)
    ]
    assert float(line["self_bleu"]) == pytest.approx(fmean(map(metrics.self_bleu, groups)))
    assert float(line["distinct_2_words"]) == pytest.approx(fmean(metrics.distinct_n_words(group, 2) for group in groups))


def test_every_mean_of_the_csv_has_its_interval(whole: Results) -> None:
    line = list(csv.DictReader(io.StringIO(as_csv([whole]))))[3]
    about = ["run", "suite", "model", "method", "particles", "texts", "missing"]
    means = [name for name in line if name not in about and not name.endswith(("_low", "_high"))]
    assert len(means) == 3 * 2 + 1 + 6 + 3 + 5  # of judges; the reward; distinct-n; other qualities of texts; lineage and costs
    for name in means:
        low, mean, high = (float(line[f"{name}{end}"]) for end in ("_low", "", "_high"))
        assert low <= mean <= high, name
    assert float(line["reward_low"]) < float(line["reward_high"])
    # what a batch cost is shared evenly among its texts, and here a batch has all prompts: they do not differ
    assert float(line["seconds_low"]) == pytest.approx(float(line["seconds_high"]))


@pytest.fixture
def call() -> Callable[..., Result]:
    from fktext_cli import app

    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, ["eval", *(str(item) for item in arguments)], prog_name="fktext")


def test_nothing_is_help_and_a_usage_error(call: Callable[..., Result]) -> None:
    result = call()
    assert (result.exit_code, result.stderr) == (2, "")
    assert "validate" in result.stdout


def test_ls_show_validate(call: Callable[..., Result], suite_file: Path) -> None:
    assert "toxicity-smoke" in call("ls").stdout
    assert call("show", "toxicity").stdout.startswith('name = "toxicity"')
    valid = call("validate", suite_file)
    assert (valid.exit_code, valid.stdout) == (
        0,
        f"{suite_file}: ok, 3 prompts, base N=1, best-of-n N=2, fk N=2, fk N=3; 2 judges, 48 texts\n",
    )
    suite_file.write_text(suite_file.read_text().replace('"letters:letter=a"', '"leters"'))
    wrong = call("validate", suite_file)
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "did you mean 'letters'" in wrong.stderr


def test_run_and_report(call: Callable[..., Result], suite_file: Path, whole: Results, tmp_path: Path) -> None:
    out = tmp_path / "run"
    half = call("run", suite_file, "--out", out, "--shard", "2/2")
    assert half.exit_code == 0, half.stderr
    assert half.stdout == ""
    assert "24 of 48 texts are missing" in half.stderr
    assert "24 of 48 texts are missing" in call("report", out).stdout
    assert "a plugin may print" not in half.stdout
    done = call("run", suite_file, "--out", out)
    assert f"the rows are in {out}" in done.stderr
    assert call("report", out).stdout == done.stdout
    steady, again = (
        [line.rpartition("|")[0].rpartition("|")[0] for line in text.splitlines() if " seconds" not in line]
        for text in (done.stdout, markdown(whole))
    )
    assert steady == again
    assert len(call("report", out, whole.folder, "--format", "csv").stdout.splitlines()) == 9
    assert call("report", out, "--texts", 1).stdout.count("\n- `") == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "toxcity"], "did you mean 'toxicity'"),
        (["run", "toxicity", "--shard", "2"], "expected I/N"),
        (["report", "nowhere"], "holds no run"),
        (["report", "nowhere", "--format", "cvs"], "cvs"),
    ],
)
def test_usage_errors(call: Callable[..., Result], arguments: list[str], message: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    said = result.stderr.removeprefix("a plugin may print\n")
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert message in result.stderr
