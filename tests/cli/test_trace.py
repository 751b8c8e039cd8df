"""`fktext generate --trace` on a tiny random model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from fktext_evals import lineage

Call = Callable[..., Result]


def test_data(call: Call, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    command = ("generate", "the book", "she", "--model", tiny, "-r", "letters", "-n", 4, "--samples", 2, "--resample-every", 2)
    plain = call(*command)
    result = call(*command, "--trace", path)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == plain.stdout, "watching changes nothing"
    found = json.loads(path.read_text())
    assert found["run"]["settings"]["particles"] == 4
    assert [(item["prompt"], item["sample"]) for item in found["populations"]] == [
        ("the book", 0), ("the book", 1), ("she", 0), ("she", 1),
    ]  # fmt: skip
    for item, printed in zip(found["populations"], plain.stdout.splitlines(), strict=True):
        kept = item["lineage"]
        lineage.check(kept)
        assert item["particles"][kept["chosen"]]["text"] == printed
        assert sum(particle["weight"] for particle in item["particles"]) == pytest.approx(1)
        for place, particle in enumerate(item["particles"]):
            assert kept["texts"][-1][place] == particle["continuation"]
            assert kept["rewards"][-1][place] == particle["reward"] == particle["text"].count("e")
            assert lineage.line_of(kept["ancestors"], place)[0] == particle["ancestor"]


def test_page(call: Call, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.html"
    command = ("generate", "the book", "--model", tiny, "-r", "letters", "-n", 3, "--trace", path)
    assert call(*command).exit_code == 0
    text = path.read_text()
    assert text.count('<figure class="lineage">') == 1
    assert "Content warning" not in text
    again = call(*command)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "exists; --overwrite replaces it" in again.stderr
    assert call(*command, "--overwrite", "--return", "draw").exit_code == 0


def test_template_and_no_reward(call: Call, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.html"
    result = call("generate", "--template", "the {2} sat", "--model", tiny, "--method", "base", "--trace", path)
    assert result.exit_code == 0, result.stderr
    assert "the {2} sat" in path.read_text()


def test_what_was_there_when_it_stopped_is_written(call: Call, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    command = ("--model", tiny, "-r", "fails:value=nan,prompt=she", "-n", 2, "--batch-size", 2, "--trace", path)
    result = call("generate", "the book", "she", *command)
    assert result.exit_code == 1
    assert [item["prompt"] for item in json.loads(path.read_text())["populations"]] == ["the book"]
    path.unlink()
    assert call("generate", "she", *command).exit_code == 1
    assert not path.exists()


@pytest.mark.parametrize(
    ("path", "more", "message"),
    [
        ("trace.txt", (), "ends in .html, .json or .jsonl"),
        ("nowhere/trace.html", (), "there is no folder"),
        ("folder.html", (), "is a folder"),
        ("trace.html", ("--output", "out.jsonl", "--resume"), "--trace does not go with --resume"),
    ],
)
def test_refused_before_anything_runs(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, more: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    result = call("generate", "she", "--model", "not-there", "-r", "letters", "--trace", path, *more)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
