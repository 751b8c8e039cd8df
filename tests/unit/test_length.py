"""A function fits a page: none is longer than `MOST` lines, signature and docstring included."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST = 60


def lengths(source):
    """Yield each function's name and number of lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


def test_every_function_fits_a_page():
    found = {
        f"{file.relative_to(ROOT)}:{name}"
        for room in ("fktext", "cli", "evals", "plugins")
        for file in (ROOT / room).rglob("*.py")
        for name, lines in lengths(file.read_text())
        if lines > MOST
    }
    assert found == set()


@pytest.mark.parametrize(("body", "lines"), [("", 2), ("    0\n" * 60, 62)])
def test_lines_are_counted_with_signature_and_docstring(body, lines):
    assert dict(lengths(f'class A:\n  def a():\n    """B."""\n{body}')) == {"a": lines}
