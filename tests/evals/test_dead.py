"""Populations that die, all their texts having reward -inf: a run goes on, and says so."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean

import pytest
from typer.testing import CliRunner, Result

from fktext_evals import Results, as_csv, markdown, measures, read, run
from fktext_evals.reporting import page, plots, report
from fktext_evals.reporting.compare import compare
from fktext_evals.reporting.compare import markdown as compared

FK, BEST = ("fk", 3), ("best-of-n", 2)


@pytest.fixture(scope="module")
def call() -> Callable[..., Result]:
    from fktext_cli import app

    runner = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, ["eval", *map(str, arguments)], prog_name="fktext")


@pytest.fixture
def never(suite_file: Path) -> Path:
    """A suite whose reward no text has, and one method that does not steer."""
    text = suite_file.read_text().replace('rewards = ["letters"]', 'rewards = ["regex:pattern=zzz"]')
    suite_file.write_text(text.replace("seeds = [0, 7]", "seeds = [0]"))
    return suite_file


@pytest.fixture(scope="module")
def some(suite_text: str, plugin_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """A run in which some populations die."""
    folder = tmp_path_factory.mktemp("some")
    text = suite_text.replace('rewards = ["letters"]', r'rewards = ["regex:pattern=\\bold\\b"]')
    (folder / "words.toml").write_text(text.replace("samples = 2", "samples = 4"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugin_path)
        yield run(str(folder / "words.toml"), out=folder / "run")


def test_a_run_in_which_all_die(call: Callable[..., Result], never: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = call("run", never, "--out", out)
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: 18 of 24 populations are dead: every text has a reward of -inf")
    found = read(out)
    assert (found.missing, found.died, len(found.of(("base", 1)))) == (0, 18, 6)
    for row in found.rows:
        if row["method"] == "base":  # what does not steer is measured, and lives
            assert row["text"].startswith(row["prompt"])
            assert row["reward"] is None
        else:
            assert [row[name] for name in ("text", "continuation", "reward", "log_z")] == [None] * 4
            assert row["judges"] == row["judged_tokens"] == {}
            assert row["denoiser_rows"] > 0
    before = (out / "rows-1-of-1.jsonl").read_bytes()
    again = call("run", never, "--out", out)
    assert (again.exit_code, again.stdout) == (1, done.stdout)
    assert (out / "rows-1-of-1.jsonl").read_bytes() == before
    died = "6 of 6 populations of best-of-n at N = 2, 6 of 6 populations of fk at N = 2, 6 of 6 populations of fk at N = 3"
    assert f"- **died**: {died}; all texts of such a population have reward -inf" in done.stdout
    for arguments in ([], ["-f", "csv"], ["--html", tmp_path / "a.html", "--plots", tmp_path / "plots"]):
        told = call("report", out, *arguments)
        assert told.exit_code == 0, told.stderr
    assert died in (tmp_path / "a.html").read_text()
    none = call("compare", out, "--method", "fk:2", "--against", "base")
    assert (none.exit_code, none.stdout) == (2, "")
    assert "no text in common" in none.stderr


def test_means_are_over_the_texts_that_exist(some: Results) -> None:
    rows, populations = some.of(FK), some.populations(FK)
    assert 0 < len(rows) < len(populations) == 24
    assert all("old" in row["continuation"] or "old" in row["prompt"] for row in rows)
    judge = some.suite.judges[0]
    expected = fmean(row["judges"]["steering"] > judge.log_threshold for row in rows)
    assert measures.judged(rows, judge).mean == pytest.approx(expected)
    text = markdown(some, texts=1)
    dead = len(populations) - len(rows)
    assert f"{dead} of 24 populations of fk at N = 3" in text
    assert "populations of base" not in text
    lines = {(line["method"], line["particles"]): line for line in csv.DictReader(io.StringIO(as_csv([some])))}
    line = lines["fk", "3"]
    assert (line["texts"], line["died"], line["missing"]) == (str(len(rows)), str(dead), "0")
    assert lines["base", "1"]["died"] == "0"
    assert float(line["reward"]) == 0  # that of a text with "old"


def test_differences_are_between_texts_that_exist(some: Results) -> None:
    (found,) = compare(some, some, "fk:3", "best-of-n:2")
    both = [{(row["prompt_index"], row["seed"], row["sample"]) for row in some.of(method)} for method in (FK, BEST)]
    assert found.texts == len(both[0] & both[1]) > 0
    assert "; died: " in compared(some, some, [found])


def test_pages_and_figures(some: Results, tmp_path: Path) -> None:
    text = page.html([some])
    assert f"{report.died(some)}; {report.DIED}" in text
    assert "None" not in text
    pytest.importorskip("matplotlib")
    assert plots.write([some], tmp_path)


def test_to_pandas(some: Results) -> None:
    table = some.to_pandas()
    dead = table[table["text"].isna()]
    assert len(dead) == some.died
    assert dead["judge:steering"].isna().all()
    assert (dead["reward"] == -math.inf).all()
    assert not table[table["text"].notna()]["judge:steering"].isna().any()


def test_reports_of_runs_without_deaths_do_not_speak_of_them(whole: Results) -> None:
    assert "died" not in markdown(whole)
    assert "died" not in as_csv([whole])
    assert "died" not in page.html([whole])


def test_shards_go_on_where_a_population_died(some: Results, tmp_path: Path) -> None:
    """A dead population is not made again."""
    rows = [json.dumps(row) for row in some.rows if row["text"] is None]
    (tmp_path / "run.json").write_text((some.folder / "run.json").read_text())
    (tmp_path / "rows-1-of-2.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "rows-2-of-2.jsonl").write_text("\n".join(rows[:1]) + "\n")
    assert len(read(tmp_path).rows) == some.died
