"""Examples in docstrings are run, and a function's docstring begins with what it does."""

import ast
import doctest
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

import fktext
import fktext_cli
import fktext_evals
import fktext_plugins


def modules():
    for package in (fktext, fktext_cli, fktext_evals, fktext_plugins):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not found.name.endswith("__main__") and ".modules." not in found.name:
                yield found.name


@pytest.mark.parametrize(
    "name", [name for name in modules() if ">>>" in (importlib.util.find_spec(name).loader.get_source(name) or "")]
)
def test_examples_of_a_module_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples_to_run():
    assert doctest.testmod(importlib.import_module("fktext.smc.weights")).attempted >= 2


ROOT = Path(__file__).parents[2]
ROOMS = ["cli/fktext_cli", "evals/fktext_evals", "fktext", "plugins"]
# What stands first where no verb does: an article, a relative clause, a preposition, a quantity, a plural.
NO_VERB = re.compile(
    r"(an?|the|th(is|at|ese|ose)|it|wh(at|ich|ere|en|ether|ose|o)|how|of|in|on|as|after|for|from|with(out)?|not?|nothing|none"
    r"|each|every|any|all|most|more|one|two|first|another|\w+[^s]s)\b",
    re.IGNORECASE,
)


def begins_with_a_verb(docstring):
    word = docstring.split()[0].rstrip(",:")
    return word.isalpha() and word.istitle() and not NO_VERB.match(word)


def functions(file):
    """Those that do something: a property says what is there, and a test what holds."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            decorators = {ast.unparse(item) for item in node.decorator_list}
            if not decorators & {"property", "cached_property"} and not node.name.startswith("test_"):
                yield node


@pytest.mark.parametrize("room", ROOMS)
def test_a_function_s_docstring_begins_with_a_verb(room):
    files = sorted((ROOT / room).rglob("*.py"))
    found = [(f"{file.relative_to(ROOT)}:{node.lineno}", ast.get_docstring(node)) for file in files for node in functions(file)]
    assert found
    assert not [f"{place}: {text}" for place, text in found if not begins_with_a_verb(text)]


@pytest.mark.parametrize(
    "text",
    ["What a value is.", "(M,) values.", "The first.", "`decode` of all.", "log p.", "0 or 1.", "Texts of ids.", "BOS and text."],
)
def test_a_docstring_without_one_is_seen(text):
    assert not begins_with_a_verb(text)
