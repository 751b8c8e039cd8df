"""Parts of the engine through the plugin door."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

import fktext
from fktext.errors import PluginError, UsageError
from fktext.plugins import load_plugins
from fktext.plugins.parts import with_parts
from fktext.smc.lookahead import Nothing
from fktext.smc.potentials import Difference

Make = Callable[..., str]

PARTS = """
from fktext.masked.any_order import AnyOrder
from fktext.masked.kernels import Kernel
from fktext.smc import RESAMPLERS
from fktext.smc.lookahead import Nothing
from fktext.smc.potentials import Difference
from fktext.smc.schedules import At

class Mine(Difference):
    pass

class Reward:
    def score(self, samples):
        return [float(text.count("e")) for text in samples]

@hookimpl
def fktext_register_rewards(register):
    register("es", lambda context: Reward(), summary="how many")

@hookimpl
def fktext_register_parts(register):
    register("potential", "mine", __name__ + ":Mine", summary="as difference")
    register("resampler", "even", lambda: RESAMPLERS["systematic"], summary="s")
    register("schedule", "twice", lambda: At([2, 4]), summary="s")
    register("look_ahead", "blind", Nothing, summary="s")
    register("kernel", "whatever", lambda: Kernel("whatever", AnyOrder), summary="s")
    register("potential", "absent", "not_there_at_all:Mine", summary="s")
    register("potential", "wrong", lambda: 3, summary="s")
    register("potential", "broken", lambda: 1 / 0, summary="s")
"""


def test_a_part_is_found_by_its_name_and_made(fake_dist: Make) -> None:
    fake_dist("fk-parts", PARTS)
    registry = load_plugins()
    assert registry.problems() == []
    assert "mine" in registry.plugins[0].parts
    for name in ("mine", "fk-parts:mine"):
        found = with_parts({"potential": name, "look_ahead": "blind", "lam": 3, "resampler": "ssp"})
        assert isinstance(found["potential"].object, Difference)
        assert isinstance(found["look_ahead"].object, Nothing)
        assert (found["potential"].name, found["lam"], found["resampler"]) == (name, 3, "ssp")
    asked = {"potential": "mine", "resampler": "even", "schedule": "twice", "look_ahead": "blind", "kernel": "whatever"}
    [one] = fktext.generate("tiny-mdlm", lambda texts: [0.0] * len(texts), particles=3, length=8, steps=8, **asked)
    assert [step.k for step in one.steps] == [2, 4, 8]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("absent", "potential 'fk-parts:absent' cannot be imported: ModuleNotFoundError"),
        ("wrong", "potential 'fk-parts:wrong': its factory returned int, which has no init"),
        ("broken", "potential 'fk-parts:broken' cannot be made: ZeroDivisionError: division by zero"),
    ],
)
def test_a_part_that_cannot_be_made_is_the_plugins_fault(fake_dist: Make, name: str, error: str) -> None:
    fake_dist("fk-parts", PARTS)
    with pytest.raises(PluginError, match=error):
        with_parts({"potential": name})


def test_a_name_of_two_distributions_is_written_with_one_of_them(fake_dist: Make) -> None:
    fake_dist("fk-parts", PARTS)
    fake_dist("fk-more", PARTS)
    with pytest.raises(UsageError, match="'mine' comes from several distributions: write fk-more:mine or fk-parts:mine"):
        with_parts({"potential": "mine"})
    assert with_parts({"potential": "fk-more:mine"})["potential"].name == "fk-more:mine"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        ('register("potential", "max", lambda: 3, summary="s")', "potential 'max': fktext has one of this name"),
        ('register("potentials", "mine", lambda: 3, summary="s")', "part 'mine' has kind 'potentials': expected one of"),
        ('register("kernel", "a b", lambda: 3, summary="s")', "kernel name 'a b': expected a letter"),
        ('register("kernel", "mine", 3, summary="s")', "kernel 'mine' has factory 3: expected a callable"),
        ('[register("kernel", "mine", int, summary="s") for _ in "ab"]', "kernel 'mine' is registered twice by fk-parts"),
    ],
)
def test_what_a_hook_registers_is_checked(fake_dist: Make, call: str, error: str) -> None:
    fake_dist("fk-parts", f"@hookimpl\ndef fktext_register_parts(register):\n    {call}\n")
    [plugin] = load_plugins().plugins
    assert plugin.status == "hook-error"
    assert error in plugin.error


def test_the_command_line_and_suites_take_its_names(fake_dist: Make, tmp_path) -> None:
    from fktext_cli.app import app
    from fktext_evals.suites.suite import parse

    fake_dist("fk-parts", PARTS)
    options = ["--potential", "mine", "--schedule", "twice", "--kernel", "whatever", "--length", "8", "--steps", "8"]
    ran = CliRunner().invoke(app, ["generate", "a", "-r", "es", "-n", "3", "--format", "jsonl", *options])
    assert ran.exit_code == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[0])["settings"]
    assert (told["potential"], told["schedule"], told["kernel"]) == ("mine", "twice", "whatever")
    table = {
        "name": "own",
        "description": "d",
        "prompts": ["a"],
        "rewards": ["es"],
        "methods": [{"name": "fk", "particles": 2, "potential": "mine"}],
        "judges": [{"name": "j", "reward": "es", "label": "e", "kind": "mean"}],
    }
    suite = parse(table, "here")
    assert suite.methods[0].settings.potential.name == "mine"
    again = parse(suite.as_table(), "again")
    assert again.as_table() == suite.as_table()
