"""Keys of a suite changed from outside, and prompts added to a run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fktext.errors import UsageError
from fktext_evals import Results, load, run
from fktext_evals.suites.changes import read_changes


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lam=2", 2),
        ("lam = 2.5", 2.5),
        ("particles=[4, 8]", [4, 8]),
        ("kernel=remdm-cap", "remdm-cap"),
        ("model=./a=b", "./a=b"),
        ('kernel="2"', "2"),
        ("warning=", ""),
    ],
)
def test_values_are_toml_or_text(text: str, value: Any) -> None:
    [found] = read_changes([text]).values()
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("texts", "message"), [(["lam"], "KEY=VALUE"), (["=2"], "KEY=VALUE"), (["a=1", "a=2"], "'a' is set twice")]
)
def test_unreadable_changes(texts: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_changes(texts)


def test_changes_reach_their_places(suite_file: Path) -> None:
    changes = {
        "lam": 2,
        "settings.steps": 5,
        "samples": 1,
        "seeds": 3,
        "methods.fk.particles": 4,
        "methods.best-of-n.lam": 1,
        "judges.held-out.threshold": 0.3,
    }
    found = load(str(suite_file), changes=changes, limit=2)
    assert (found.prompts, found.samples, found.seeds) == (("the book", "the city"), 1, (3,))
    assert [method.key for method in found.methods] == [("base", 1), ("best-of-n", 2), ("fk", 4)]
    assert [(method.asked.lam, method.asked.steps) for method in found.methods] == [(2, 5), (1, 5), (2, 5)]
    assert [judge.threshold for judge in found.judges] == [0.2, 0.3]
    assert load(str(suite_file), limit=99) == load(str(suite_file))


def test_a_prompts_file_is_sought_where_the_command_is(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "p.txt").write_text("he\n")
    monkeypatch.chdir(tmp_path / "here")
    assert load(str(suite_file), changes={"prompts": "p.txt"}).prompts == ("he",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lamm": 2}, "unknown key of .*words.toml: 'lamm': did you mean 'lam'"),
        ({"lam": "two"}, r"\[settings\]: lam is 'two'; expected float"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"particles": 2}, "'particles' is each method's own: write methods.NAME.particles"),
        ({"potential": "sum", "methods.fk.potential": "max"}, None),
        ({"methods.fkk.lam": 2}, "unknown method of .*: 'fkk': did you mean 'fk'"),
        ({"methods.fk.lamm": 2}, "'lamm': did you mean 'lam'"),
        ({"methods.fk": 2}, r"expected methods.NAME.KEY, got methods.fk"),
        ({"judges.held.threshold": 0.5}, "unknown judge of"),
        ({"settings": 2}, "expected settings.KEY"),
        ({"rewards": "lettres"}, None),
    ],
)
def test_wrong_changes(suite_file: Path, changes: dict[str, Any], message: str | None) -> None:
    if message is None:
        load(str(suite_file), changes=changes)
        return
    with pytest.raises(UsageError, match=message):
        load(str(suite_file), changes=changes)


def test_what_every_method_has_of_its_own_cannot_be_set_for_all(suite_file: Path) -> None:
    own = {f"methods.{name}.lam": 3 for name in ("base", "best-of-n", "fk")}
    with pytest.raises(UsageError, match=r"every method has its own lam: write methods.NAME.lam"):
        load(str(suite_file), changes={**own, "lam": 2})


def test_a_run_grows_by_prompts_and_gives_the_texts_of_the_whole(whole: Results, tmp_path: Path) -> None:
    file, out = str(whole.folder.parent / "words.toml"), tmp_path / "run"
    part = run(load(file, limit=2), out=out)
    assert (len(part.rows), part.missing) == (32, 0)
    first = (out / "rows-1-of-1.jsonl").read_bytes()
    found = run(load(file), out=out)
    assert (out / "rows-1-of-1.jsonl").read_bytes().startswith(first)
    assert [row["text"] for row in found.rows] == [row["text"] for row in whole.rows]
    assert json.loads((out / "run.json").read_text()) == whole.run
    with pytest.raises(UsageError, match=r"this run of 3 prompts, asked for are the first 2"):
        run(load(file, limit=2), out=out)
    with pytest.raises(UsageError, match=r"another run: its suite.methods\[1\].lam is 10.0, asked for is 2.0"):
        run(load(file, changes={"lam": 2.0}), out=out)
    with pytest.raises(UsageError, match=r"another run"):
        run(load(file, changes={"prompts": ["the city", "the book", "she", "he"]}), out=out)


def test_cli(suite_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fktext_cli import app

    monkeypatch.chdir(tmp_path)
    command = ["eval", "run", "--limit", "1", "--set", "samples=1", "seeds=0", str(suite_file), "--set", "lam=2"]
    runner = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"})
    done = runner.invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "- 1 prompt x 1 text per method and seed (0)" in done.stdout
    again = runner.invoke(app, command)
    assert (again.stdout, "done in" in again.stderr) == (done.stdout, False)
    other = runner.invoke(app, [*command[:-1], "lam=3"])
    assert (other.exit_code, other.stdout) == (2, "")
    assert f"'runs{os.sep}words' holds another run: its suite.methods[1].lam is 2.0, asked for is 3.0" in other.stderr
