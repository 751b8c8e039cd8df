"""Reports as LaTeX and on a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from fktext_cli import app, onscreen
from fktext_evals import Results, markdown
from fktext_evals.reporting.blocks import Report, Table, escaped, latex
from fktext_evals.reporting.report import report

SMALL = Report(
    "words: 50 % & more",
    "fk wins.",
    ["model x_1"],
    [Table("What is said", ["method", "N", "toxic %"], [["base", "1", "1.0 [0.0, 2.0]"], ["fk", "8", "50.0 [40.0, 60.0]"]])],
    "Notes.",
)


def test_latex() -> None:
    assert latex(SMALL) == (
        "% words: 50 % & more\n% fk wins.\n% model x_1\n\n"
        "\\begin{table}\n\\caption{What is said.}\n\\begin{tabular}{lrr}\n\\toprule\nmethod & N & toxic \\% \\\\\n\\midrule\n"
        "base & 1 & 1.0 [0.0, 2.0] \\\\\nfk & 8 & 50.0 [40.0, 60.0] \\\\\n\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )


@pytest.mark.parametrize("character", "\\~^&%$#_{}")
def test_latex_obeys_nothing_of_a_name(character: str) -> None:
    assert re.fullmatch(r"a(\\[&%$#_{}]|\\text\w+\{\})b", escaped(f"a{character}b"))


def test_every_row_of_a_report_is_in_latex(whole: Results) -> None:
    found = report(whole)
    text = latex(found)
    assert text.count("\\begin{tabular}") == len(found.tables) == 2
    assert text.count(" \\\\\n") == sum(1 + len(table.rows) for table in found.tables)
    for line in text.splitlines():
        assert line.startswith("%") or not re.search(r"(?<!\\)[%_]", line), line


@pytest.mark.parametrize("width", [200, 80, 60])
def test_a_terminal_shows_tables_within_its_width(whole: Results, width: int) -> None:
    out = io.StringIO()
    onscreen.show(report(whole), Console(file=out, width=width, highlight=False))
    text = out.getvalue()
    assert "|" not in text
    assert "**" not in text
    assert max(map(len, text.splitlines())) <= width
    cell = report(whole).tables[0].rows[-1][2]
    mean, interval = cell.split(" [")
    assert (cell in text) == (width == 200)
    assert mean in text
    assert f"[{interval}" in text


def test_control_characters_stay_harmless() -> None:
    out = io.StringIO()
    onscreen.show(Report("a\x1b[31m", "", [], [Table("t", ["m"], [["x\x07"]])], "n", ["[bold]b\x1b"]), Console(file=out, width=60))
    assert "\x1b" not in out.getvalue()
    assert "\x07" not in out.getvalue()
    assert "[bold]b\\x1b" in out.getvalue()


def test_pipes_get_markdown_and_terminals_tables(whole: Results) -> None:
    runner = CliRunner(env={"NO_COLOR": "1", "TERM": "dumb"})
    assert runner.invoke(app, ["eval", "report", str(whole.folder)]).stdout == markdown(whole)
    assert runner.invoke(app, ["eval", "report", str(whole.folder), "-f", "latex"]).stdout == latex(report(whole))

    leader, follower = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "120", "TERM": "dumb"}
    command = [sys.executable, "-m", "fktext_cli", "eval", "report", str(whole.folder)]
    process = subprocess.Popen(command, env=environment, stdout=follower, stderr=subprocess.DEVNULL)
    os.close(follower)
    shown = b""
    while piece := _read(leader):
        shown += piece
    assert process.wait() == 0
    text = shown.decode()
    assert "| --- |" not in text
    assert "best-of-n" in text
    assert "─" in text


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # the other side is closed
        return b""
