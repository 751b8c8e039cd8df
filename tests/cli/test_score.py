"""`fktext score`."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import cast

import pytest
from typer.testing import CliRunner, Result

from fktext_cli import app

Call = Callable[..., Result]


def rows(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_text_per_line(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\ufeffthe sea\r\nthe sea\na long red lake", encoding="utf-8")
    result = call("score", file, "-r", "letters=2", "--reward", "regex:pattern=sea", "--batch-size", "2")
    name = "regex:pattern=sea"
    models = {"reward_models": {"letters": {"plugin": "fk-test 1.0"}, name: {"plugin": f"fktext {version('fktext')}"}}}
    assert rows(result) == [
        {"text": "the sea", "prompt": "", "reward": 4.0, "rewards": {"letters": 2.0, name: 0.0}, "line": 1, **models},
        {"text": "the sea", "prompt": "", "reward": 4.0, "rewards": {"letters": 2.0, name: 0.0}, "line": 2, **models},
        {"text": "a long red lake", "prompt": "", "reward": None, "rewards": {"letters": 2.0, name: None}, "line": 3, **models},
    ]
    assert "a reward may print" in result.stderr
    assert "3 texts, 2 of them different" in result.stderr


def test_json_lines_have_prompts(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "the sea", "prompt": "the", "other": 1}\n"a b c"\n{"text": ""}\n')
    found = rows(call("score", file, "-r", "length:words=1,part=continuation"))
    assert [(row["reward"], row["prompt"]) for row in found] == [(0, "the"), (-2, ""), (-1, "")]
    text = call("score", file, "-r", "length:words=1,part=continuation", "-f", "text")
    assert text.stdout == "0\tthe sea\n-2\ta b c\n-1\t\n"


PARITY = (
    "length:words=3,part=continuation",
    "toxicity:part=continuation",
    "keywords:words=the,part=continuation",
    "perplexity",
    "length:words=5,trim=2",
)


@pytest.mark.parametrize("model", ["tiny-mdlm", "tiny-ssdlm"])
def test_what_generate_wrote_scores_as_it_did(call: Call, tmp_path: Path, model: str) -> None:
    file = tmp_path / "rows.jsonl"
    rewards = [part for spec in PARITY for part in ("-r", spec)]
    small = ("-n", 2, "--steps", 4, "--length", 8, "--return", "all")
    written = call("generate", "The movie", "Café  noir", "", "--model", model, *small, *rewards, "-o", file)
    assert written.exit_code == 0, written.stderr
    made = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["spelled_prompt"] for row in made] == ["the movie"] * 2 + ["cafe noir"] * 2 + [""] * 2
    assert all(row["text"] == row["spelled_prompt"] + row["continuation"] for row in made)
    found = rows(call("score", file, *rewards))
    assert [row["prompt"] for row in found] == [row["spelled_prompt"] for row in made]
    for ours, theirs in zip(found, made, strict=True):
        assert ours["rewards"] == pytest.approx(theirs["rewards"], abs=1e-5)
        assert ours["reward"] == pytest.approx(theirs["reward"], abs=1e-5)


def test_rows_without_a_text_are_skipped(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "The", "text": null}\n{"text": "a b"}\n{"text": null, "spelled_prompt": null}\n')
    for size in (1, 64):
        result = call("score", file, "-r", "length:words=2", "--batch-size", size)
        assert [(row["text"], row["line"]) for row in rows(result)] == [("a b", 2)]
        assert f"2 rows of {file} without a text: skipped" in result.stderr


def test_csv_has_a_header(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_bytes('\ufeffprompt,id,text\nthe,1,the sea\n,2,"a, ""b""\r\nc"\r\n,3,\n'.encode())
    found = rows(call("score", file, "-r", "length:words=1,part=continuation"))
    assert [(row["text"], row["prompt"], row["line"], row["reward"]) for row in found] == [
        ("the sea", "the", 2, 0),
        ('a, "b"\r\nc', "", 3, -2),
        ("", "", 5, -1),
    ]
    spelled = "prompt,spelled_prompt,text\nThe,the,the sea\n"
    piped = CliRunner().invoke(app, ["score", "-", "-r", "length:words=1,part=continuation", "--input", "csv"], input=spelled)
    assert [row["reward"] for row in rows(piped)] == [0]


def test_windows_and_sums(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text('{"text": "the sea is wide", "prompt": "the sea"}\n{"text": "the", "prompt": "the"}\n')
    specs = ("length:words=1,part=continuation,trim=1", "length:words=9,part=continuation,empty=-50=0.5")
    found = rows(call("score", file, "-r", specs[0], "-r", specs[1]))
    assert [list(cast(dict[str, float], row["rewards"]).values()) for row in found] == [[0, -7], [-1, -50]]
    assert [row["reward"] for row in found] == [-3.5, -26]


def test_rows_say_whose_values_they_are(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("the sea\n")
    (row,) = rows(call("score", file, "-r", "length:words=1", "-r", "letters", "-r", "toxicity:model=heldout-toxicity"))
    models = cast(dict[str, dict[str, str]], row["reward_models"])
    assert models["length:words=1"] == {"plugin": f"fktext {version('fktext')}"}
    assert models["letters"] == {"plugin": "fk-test 1.0"}
    assert sorted(models["toxicity:model=heldout-toxicity"]) == ["digest", "model", "plugin"]


def test_standard_input(call: Call) -> None:
    runner = CliRunner()
    plain = runner.invoke(app, ["score", "-", "-r", "length:words=2"], input="a b\nc\n")
    assert [row["reward"] for row in rows(plain)] == [0, -1]
    both = runner.invoke(app, ["score", "-", "-r", "length:words=2", "--input", "jsonl"], input='{"text": "a b"}\n')
    assert [row["text"] for row in rows(both)] == ["a b"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\n\ntwo\n", "a.txt:2: a blank line"),
        ("a.txt", b"one\n\xff\n", "a.txt:2: not UTF-8"),
        ("a.txt", b"", "a.txt holds no text"),
        ("a.jsonl", b"{}\n", 'a.jsonl:1: expected a string, or an object with "text"'),
        ("a.jsonl", b"{\n", "a.jsonl:1: not JSON"),
        ("a.jsonl", b'{"text": 1}\n', 'a.jsonl:1: "text", "prompt" and "spelled_prompt" must be strings'),
        ("a.jsonl", b'"\\ud800"\n', "a.jsonl:1: '\\ud800' is not valid Unicode"),
        ("a.jsonl", b"null\n", "a.jsonl:1: expected a string, or an object"),
        ("a.jsonl", b'{"text": "the sea", "spelled_prompt": null}\n', 'a.jsonl:1: "text", "prompt" and "spelled_prompt" must be'),
        ("a.jsonl", b'{"text": "the sea", "prompt": "The"}\n', "a.jsonl:1: the prompt 'The' is not what the text 'the sea' begins"),
        (
            "a.jsonl",
            b'{"text": "the sea", "prompt": "the", "spelled_prompt": "sea"}\n',
            "a.jsonl:1: the prompt 'sea' is not what the text",
        ),
        ("a.jsonl", b'{"text": null}\n', "a.jsonl holds no text"),
        ("a.csv", b"text,prompt\nthe sea,The\n", "a.csv:2: the prompt 'The' is not what the text 'the sea' begins with"),
        ("a.csv", b"id,prompt\n1,a\n", "a.csv:1: no column text; it has id, prompt"),
        ("a.csv", b"text,id,text\na,1,b\n", "a.csv:1: two columns 'text'"),
        ("a.csv", b'text\n"a\nb",c\n', "a.csv:2: 2 fields; the header has 1"),
        ("a.csv", b'text\n"a\n', "a.csv:2: not CSV"),
        ("a.csv", b"text\n\xff\n", "a.csv:2: not UTF-8"),
        ("a.csv", b"text\n", "a.csv holds no text"),
        ("a.csv", b"", "a.csv:1: no column text; it has none"),
    ],
)
def test_wrong_lines(call: Call, tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    result = call("score", tmp_path / name, "-r", "length:words=2", "--batch-size", "1")
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert len(result.stdout.splitlines()) == content.startswith(b"one")  # what came before is written


def test_wrong_requests(call: Call, tmp_path: Path) -> None:
    missing = call("score", tmp_path / "no.txt", "-r", "length:words=2")
    assert missing.exit_code == 2
    assert "cannot read" in missing.stderr
    assert call("score", "-").exit_code == 2
    (tmp_path / "a.txt").write_text("a\n")
    result = call("score", tmp_path / "a.txt", "-r", "lengh:words=2")
    assert result.exit_code == 2
    assert "did you mean 'length'?" in result.stderr
    nan = call("score", tmp_path / "a.txt", "-r", "fails:value=nan")
    assert nan.exit_code == 1
    assert "returned nan for sample 0 of 1 on" in nan.stderr
    assert "a.txt, lines 1 to 1" in nan.stderr
    infinite = call("score", tmp_path / "a.txt", "-r", "regex:pattern=b=-1")
    assert infinite.exit_code == 1
    assert "reward 'regex:pattern=b' returned -inf" in infinite.stderr
    assert "a.txt, lines 1 to 1" in infinite.stderr
    assert "Its weight -1 makes that inf" in infinite.stderr
    large = call("score", tmp_path / "a.txt", "-r", "length:words=101=-1e306", "-r", "length:words=102=-1e306")
    assert large.exit_code == 1
    assert "a.txt:1: the weighted sum is inf: the values are too large" in large.stderr
