"""Rows, and the file that holds whole lines whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fktext.errors import UsageError
from fktext_cli.output import OutputError, Sink, as_jsonl, as_text, check_file, resume_point

RUN = {"seed": 0, "model": {"name": "m", "digest": "d"}, "settings": {"particles": 2, "lam": 10.0}}


def row(prompt: str, index: int, sample: int, **changes: object) -> str:
    return as_jsonl([{"prompt": prompt, "text": prompt, "prompt_index": index, "sample": sample, **RUN, **changes}])


def test_text_is_a_line_each_and_a_blank_line_after_one_with_line_breaks() -> None:
    assert as_text(["a", "b\nc", "d"]) == "a\nb\nc\n\nd\n"


def test_json_lines_are_ascii_and_refuse_what_json_has_not() -> None:
    text = as_jsonl([{"text": "é\u2028\x85\ud800"}])
    assert text.isascii()
    assert len(text.splitlines()) == 1
    assert json.loads(text) == {"text": "é\u2028\x85\ud800"}
    with pytest.raises(ValueError, match="JSON"):
        as_jsonl([{"value": float("nan")}])


def test_a_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("precious\n")
    with pytest.raises(UsageError, match=r"^--output .*out.jsonl. exists; --overwrite replaces it$"):
        check_file("--output", path, "--overwrite replaces it")
    check_file("--output", path)
    with Sink(path, sys.stdout, overwrite=True) as sink:
        sink.write("new\n")
    assert path.read_text() == "new\n"
    with pytest.raises(UsageError, match="is a folder"):
        check_file("--output", tmp_path)
    with pytest.raises(UsageError, match="there is no folder"):
        check_file("--output", tmp_path / "no" / "out")


def test_a_run_that_writes_nothing_leaves_no_file(tmp_path: Path) -> None:
    with Sink(tmp_path / "out", sys.stdout):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), Sink(tmp_path / "no" / "out", sys.stdout):
        pass


def test_a_disk_that_fills_up_in_the_middle_of_a_line_leaves_whole_lines(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from fktext_cli.output import OutputError, Sink
resource.setrlimit(resource.RLIMIT_FSIZE, (250, 250))
with Sink(Path(sys.argv[1]), sys.stdout) as sink:
    try:
        for number in range(9):
            sink.write(f"{number}" * 99 + "\\n")
    except OutputError as error:
        print(number, error)
"""
    path = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", program, path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == f"2 cannot write {str(path)!r}: File too large; what is in it are whole lines\n", done.stderr
    assert path.read_text() == "0" * 99 + "\n" + "1" * 99 + "\n"


def test_resume_keeps_whole_populations_only(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = row("a", 0, 0) * 2 + row("b", 1, 0) * 2
    path.write_text(whole + row("b", 1, 1))
    assert resume_point(path, RUN, ["a", "b"], 2) == ({(0, 0), (1, 0)}, len(whole))
    path.write_text(whole + row("b", 1, 1) * 2)
    assert resume_point(path, RUN, ["a", "b"], 2) == ({(0, 0), (1, 0), (1, 1)}, len(whole) + 2 * len(row("b", 1, 1)))
    path.write_text(whole + '{"prompt": "b", "prom')
    assert resume_point(path, RUN, ["a", "b"], 2) == ({(0, 0), (1, 0)}, len(whole))
    path.write_text("")
    assert resume_point(path, RUN, ["a", "b"], 2) == (set(), 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (row("a", 0, 0, seed=1), ":1 has seed 1, and this run has 0"),
        (row("a", 0, 0) + row("b", 1, 0, model={"name": "m", "digest": "e"}), ":2 has digest 'e', and this run has 'd'"),
        (row("a", 0, 0, settings={"particles": 2, "lam": 5.0}), ":1 has lam 5.0, and this run has 10.0"),
        (row("c", 0, 0), ":1 has prompt 'c' in place 0"),
        (row("a", 7, 0), ":1 has prompt 'a' in place 7"),
        ("hello\n", ":1 is no row"),
        ('{"text": "a"}\n', ":1 is no row"),
        (row("a", 0, 0).replace('"text": "a", ', ""), ":1 is no row"),
        (row("a", 0, 0) + row("b", 1, 0) + row("a", 0, 0), ":3 is out of order"),
    ],
)
def test_resume_refuses_another_run(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(UsageError) as caught:
        resume_point(path, RUN, ["a", "b"], 1)
    assert message in str(caught.value)
    assert path.read_text() == content
