"""Prompts files: what is read, and which line is named when it cannot be."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fktext.errors import UsageError
from fktext.texts.prompts import read_prompts
from fktext.texts.templates import Template

TEXT = st.text(st.characters(codec="utf-8"))


@pytest.mark.parametrize(
    ("name", "content", "texts", "lines"),
    [
        ("p.txt", "The book\nThe city", ["The book", "The city"], [1, 2]),
        ("p.txt", "The book \r\n The city\r\n", ["The book ", " The city"], [1, 2]),
        ("p.txt", "\ufeffThe book\n", ["The book"], [1]),
        ("p.txt", "one\x0bstill one\u2028still one\n", ["one\x0bstill one\u2028still one"], [1]),
        (
            "p.jsonl",
            '"a"\n{"prompt": ""}\n{"text": "b", "id": 3}\n{"context_string": "\\n\\nc"}',
            ["a", "", "b", "\n\nc"],
            [1, 2, 3, 4],
        ),
        ("p.jsonl", '{"prompt": {"text": "a", "toxicity": 0.1}, "continuation": {"text": "b"}}\n', ["a"], [1]),
        ("p.csv", 'id,prompt\n1,a\n2,"b, ""c""\nd"\n3,\n4,e\n', ["a", 'b, "c"\nd', "", "e"], [2, 3, 5, 6]),
    ],
)
def test_read(tmp_path: Path, name: str, content: str, texts: list[str], lines: list[int]) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    prompts = read_prompts(path)
    assert [prompt.text for prompt in prompts] == texts
    assert [prompt.where for prompt in prompts] == [f"{path}:{line}" for line in lines]


def test_templates(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"template": "a {2}", "id": 1}\n"b {2}"\n{"prompt": "c"}\n')
    (tmp_path / "p.csv").write_text('id,template\n1,"a ""{2}"" {{x}}"\n')
    (tmp_path / "p.txt").write_text("a {2}\n")
    found = {end: read_prompts(tmp_path / f"p.{end}", templates=True) for end in ("jsonl", "csv", "txt")}
    requests = {end: [prompt.request for prompt in prompts] for end, prompts in found.items()}
    assert requests == {"jsonl": [Template("a {2}"), "b {2}", "c"], "csv": [Template('a "{2}" {{x}}')], "txt": ["a {2}"]}
    assert [prompt.where for prompt in found["jsonl"]] == [f"{tmp_path}/p.jsonl:{line}" for line in (1, 2, 3)]
    with pytest.raises(UsageError, match=r"p.jsonl:1: no key prompt or text or context_string; it has template, id"):
        read_prompts(tmp_path / "p.jsonl")  # who takes prompts only


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.jsonl", '"a"\n{"template": "a {"}\n', "p.jsonl:2: template 'a {' has a stray '{' at character 3"),
        ("p.jsonl", '{"template": 3}\n', "p.jsonl:1: the prompt is int 3; expected a string"),
        ("p.jsonl", '{"template": "a {1}", "prompt": "b"}\n', "p.jsonl:1: a key prompt and a key template; expected one of them"),
        ("p.jsonl", '{"templat": "a {1}"}\n', "p.jsonl:1: no key prompt or text or context_string or template; it has templat"),
        ("p.csv", "template,text\na {1},b\n", "p.csv:1: a column text and a column template; expected one of them"),
        ("p.csv", 'template\n"a\n{1}"\nb\n', "p.csv:4: template 'b' has no gap"),
    ],
)
def test_bad_templates_name_file_and_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError) as caught:
        read_prompts(tmp_path / name, templates=True)
    assert message in str(caught.value)


@given(st.lists(TEXT, min_size=1))
def test_any_text_survives_jsonl_and_csv(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("prompts")
    (folder / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    assert [prompt.text for prompt in read_prompts(folder / "p.jsonl")] == texts
    with (folder / "p.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["id", "prompt"], *([index, text] for index, text in enumerate(texts))])
    assert [prompt.text for prompt in read_prompts(folder / "p.csv")] == texts


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.txt", b"a\n\nb\n", "p.txt:2: a blank line"),
        ("p.txt", b"a\n  \n", "p.txt:2: a blank line"),
        ("p.txt", b"", "holds no prompt"),
        ("p.txt", b"a\nb\xff\n", "p.txt:2: not UTF-8"),
        ("p.jsonl", b'{"prompt": "a"}\n{"prompt": "b"\n', "p.jsonl:2: not JSON"),
        ("p.jsonl", b'{"prompt": "a"}\n\n"b"\n', "p.jsonl:2: a blank line"),
        ("p.jsonl", b'{"promt": "a"}\n', "p.jsonl:1: no key prompt or text or context_string; it has promt"),
        ("p.jsonl", b'{"prompt": 3}\n', "p.jsonl:1: the prompt is int 3; expected a string"),
        ("p.jsonl", b"[1]\n", "p.jsonl:1: the prompt is list [1]; expected a string"),
        ("p.csv", b"id,promt\n1,a\n", "p.csv:1: no column prompt or text or context_string; it has id, promt"),
        ("p.csv", b"prompt,id,prompt\na,1,b\n", "p.csv:1: two columns 'prompt'; expected a name for each"),
        ("p.csv", b"", "p.csv:1: no column"),
        ("p.csv", b"prompt\n", "holds no prompt"),
        ("p.csv", b'id,prompt\n1,"a\nb"\n2\n', "p.csv:4: 1 fields; the header has 2"),
        ("p.csv", b"id,prompt\n1,a,b\n", "p.csv:2: 3 fields; the header has 2"),
        ("p.csv", b'id,prompt\n1,"a\n', "p.csv:2: not CSV"),
        ("p.json", b"[]", "ends in '.json'; expected .txt, .jsonl, .csv"),
    ],
)
def test_errors_name_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_prompts(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_prompts(tmp_path / "p.txt")
    (tmp_path / "d.txt").mkdir()
    with pytest.raises(UsageError, match="directory"):
        read_prompts(tmp_path / "d.txt")
