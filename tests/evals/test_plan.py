"""What a run would take is said before it is done, and comes true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fktext.errors import UsageError
from fktext_cli import app
from fktext_evals import Results, load
from fktext_evals.running.runner import estimate


def test_a_pilot_makes_one_text_of_each_method_and_keeps_none(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    found = estimate(load(str(suite_file)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert [(share.method, share.particles, share.texts, share.cells) for share in found.shares] == [
        ("base", 1, 12, 2),
        ("best-of-n", 2, 12, 2),
        ("fk", 2, 12, 2),
        ("fk", 3, 12, 2),
    ]
    assert {(share.by, share.measured_on) for share in found.shares} == {("pilot", 1)}
    assert found.hours > 0
    assert 2**27 < found.memory < 2**36
    rows, told = sum(row["denoiser_rows"] for row in whole.rows), sum(share.denoiser_rows for share in found.shares)
    assert 0.5 < told / rows < 3  # a batch shares rows that a pilot of one text cannot


def test_rows_that_are_there_say_what_the_others_cost(whole: Results, suite_file: Path, tmp_path: Path) -> None:
    suite_file.write_text((whole.folder.parent / "words.toml").read_text())
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_bytes((whole.folder / "run.json").read_bytes())
    lines = (whole.folder / "rows-1-of-1.jsonl").read_text().splitlines(keepends=True)
    half = [line for line in lines if json.loads(line)["seed"] == 0]
    (out / "rows-1-of-1.jsonl").write_text("".join(half))
    before = sorted(path.name for path in out.iterdir())
    done = CliRunner().invoke(app, ["eval", "run", str(suite_file), "--out", str(out), "--dry-run", "--workers", "2"])
    assert done.exit_code == 0, done.stderr
    *table, line = done.stdout.splitlines()
    assert [row.split()[-1] for row in table] == ["by", "rows", "rows", "rows", "rows"]
    assert line.startswith("4 cells of 24 texts are left: about ")
    rows = sum(json.loads(line)["denoiser_rows"] for line in half)
    assert f"about {rows:,.0f} denoiser rows" in line
    assert "at best with 2 workers" in line
    assert sorted(path.name for path in out.iterdir()) == before
    with pytest.raises(UsageError, match=r"holds another run: its suite.samples is 2, asked for is 1"):
        estimate(replace(load(str(suite_file)), samples=1), out=out)
