"""Examples in docstrings are run."""

import doctest
import importlib
import importlib.util
import pkgutil

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
