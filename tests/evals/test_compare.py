"""Comparing runs: differences are paired, and what differs in more than method or model is refused."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from typer.testing import CliRunner

from fktext.errors import UsageError
from fktext_evals import Results
from fktext_evals.reporting.compare import as_csv, compare, markdown, run_names


def other(whole: Results, **changes: Any) -> Results:
    """The same run in another folder, with a suite that is changed."""
    return replace(whole, folder=Path("other"), suite=replace(whole.suite, **changes))


def shifted(whole: Results, by: float) -> Results:
    """The same run, with all rewards moved and every cost doubled."""
    rows = [{**row, "reward": row["reward"] + by, "seconds": 2 * row["seconds"]} for row in whole.rows]
    return replace(whole, folder=Path("other"), rows=rows)


def test_differences_between_runs(whole: Results) -> None:
    found = compare(shifted(whole, 0.5), whole)
    assert [(item.method.key, item.other.key, item.texts) for item in found] == [
        (method.key, method.key, 12) for method in whole.suite.methods
    ]
    for item in found:
        # every pair differs by the same: an interval that is not paired would be wide
        assert (item.reward.mean, item.reward.low, item.reward.high) == pytest.approx((0.5, 0.5, 0.5))
        assert all(interval.low < interval.mean == 0 < interval.high for interval in item.judges)  # so few shares are not certain
        assert (item.rows, item.seconds) == pytest.approx((1, 2))


def test_differences_between_methods(whole: Results) -> None:
    (found,) = compare(whole, whole, "fk:3", "best-of-n")
    ours, theirs = whole.of(("fk", 3)), whole.of(("best-of-n", 2))
    assert found.reward.mean == pytest.approx(fmean(row["reward"] for row in ours) - fmean(row["reward"] for row in theirs))
    hits = [fmean(math.exp(row["judges"]["steering"]) > 0.2 for row in side) for side in (ours, theirs)]
    assert found.judges[0].mean == pytest.approx(hits[0] - hits[1])
    assert found.rows == pytest.approx(fmean(row["denoiser_rows"] for row in ours) / fmean(row["denoiser_rows"] for row in theirs))
    assert [item.method.settings.particles for item in compare(whole, whole, "fk", "best-of-n")] == [2, 3]
    assert [item.method.key for item in compare(whole, whole, "fk", "fk")] == [("fk", 2), ("fk", 3)]
    assert f"| fk - best-of-n | 3 - 2 | 12 | {100 * found.judges[0].mean:+.1f} [" in markdown(whole, whole, [found])
    (line,) = csv.DictReader(io.StringIO(as_csv(whole, whole, [found])))
    assert float(line["reward"]) == found.reward.mean
    assert (line["run_method"], line["other_particles"], line["pairs"]) == ("fk", "2", "12")


def test_only_texts_that_both_have(whole: Results) -> None:
    part = replace(shifted(whole, 1.0), rows=[row for row in shifted(whole, 1.0).rows if row["prompt_index"] != 1])
    assert {item.texts for item in compare(part, whole)} == {8}
    none = replace(whole, folder=Path("other"), rows=[])
    with pytest.raises(UsageError, match="no text in common"):
        compare(whole, none)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": ("the book", "the city", "he")}, "prompts differ"),
        ({"samples": 3}, r"samples differ \(2 and 3\)"),
        ({"seeds": (5,)}, r"they have no seed in common \(\[0, 7\] and \[5\]\)"),
        ({"rewards": ("letters:letter=a",)}, "rewards differ"),
        ({"judge_tokens": 3}, "judge tokens differ"),
    ],
)
def test_suites_that_differ_are_refused(whole: Results, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"cannot be compared: {message}"):
        compare(whole, other(whole, **changes))


def test_judges_that_differ_are_refused(whole: Results) -> None:
    strict = (replace(whole.suite.judges[0], threshold=0.3), whole.suite.judges[1])
    with pytest.raises(UsageError, match="cannot be compared: judges differ"):
        compare(whole, other(whole, judges=strict))
    models = {**whole.run["rewards"], "letters": {"digest": "4567"}}
    with pytest.raises(UsageError, match="'letters' is not the same in both"):
        compare(whole, replace(whole, folder=Path("other"), run={**whole.run, "rewards": models}))


def test_texts_of_other_lengths_are_refused(whole: Results) -> None:
    longer = tuple(replace(method, settings=replace(method.settings, length=9)) for method in whole.suite.methods)
    with pytest.raises(UsageError, match="makes texts of 8 tokens, base:1 of 9"):
        compare(whole, other(whole, methods=longer))


def test_another_model_is_what_is_compared(whole: Results) -> None:
    found = replace(other(whole, model="another"), run={**whole.run, "model": {**whole.run["model"], "name": "another"}})
    assert len(compare(whole, found)) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "needs --method and --against"),
        (["--against", "fk"], "--against needs --method"),
        (["--method", "fkk", "--against", "fk"], "it has base:1, best-of-n:2, fk:2, fk:3"),
        (["--method", "fk", "--against", "fk:4"], "--against 'fk:4' is not a method"),
    ],
)
def test_usage_errors(whole: Results, arguments: list[str], message: str) -> None:
    from fktext_cli import app

    done = CliRunner(env={"NO_COLOR": "1"}).invoke(app, ["eval", "compare", str(whole.folder), *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_cli(whole: Results) -> None:
    from fktext_cli import app

    command = ["eval", "compare", str(whole.folder), str(whole.folder), "--method", "fk", "--against", "best-of-n"]
    done = CliRunner(env={"NO_COLOR": "1"}).invoke(app, command)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == markdown(whole, whole, compare(whole, whole, "fk", "best-of-n"))
    assert CliRunner().invoke(app, [*command, "-f", "csv"]).stdout.startswith("run,run_method,run_particles,other,")


def test_runs_are_named_by_their_folders(whole: Results, tmp_path: Path) -> None:
    mine, theirs = replace(shifted(whole, 0.5), folder=tmp_path / "a" / "run"), replace(whole, folder=tmp_path / "b" / "run")
    text = markdown(mine, theirs, compare(mine, theirs))
    assert text.startswith("# a/run minus b/run, suite words\n")
    assert "| a/run - b/run | N |" in text
    assert "| best-of-n | 2 |" in text
    assert "best-of-n - best-of-n" not in text
    assert f"- b/run: {theirs.folder}, model" in text
    assert run_names(Path("runs/x"), Path("runs/y")) == ["x", "y"]
    assert markdown(whole, whole, compare(whole, whole, "fk:2", "fk:3")).startswith(f"# {whole.folder.name}, suite words")
