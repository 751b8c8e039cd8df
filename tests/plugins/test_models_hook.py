"""Models through the plugin door: what registers, what clashes, what is said when it goes wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import tiny
from fktext import embedded
from fktext.errors import ModelError, PluginError, UsageError
from fktext.models import find, load
from fktext.plugins import load_plugins

Make = Callable[..., str]

ALIAS = """
@hookimpl
def fktext_register_models(register):
    register({name!r}, source={source!r}, summary="an alias", licence="MIT", family={family!r})
"""
OWN = """
import torch
from fktext import MaskedModel, ModelContext

class Even:
    vocab_size, mask_id, max_length, time_dependent = 4, 3, 16, False
    device = torch.device("cpu")
    def encode(self, ids, t):
        return torch.zeros(*ids.shape, 1)
    def logits(self, hidden):
        return torch.zeros(len(hidden), 4)

def create(context):
    from tokenizers import Tokenizer, models, pre_tokenizers
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return MaskedModel(name=context.name, family="even", denoiser=Even(), tokenizer=tokenizer, digest="none",
                     default_length=context.length or 6, default_steps=4, kernels=("ancestral",), bos_id=None, end_id=None,
                     pad_id=None, closing_id=None, forbidden=(3,))

def broken(context):
    raise OSError("no such weights")

@hookimpl
def fktext_register_models(register):
    register("even", factory=__name__ + ":create", family="even", summary="three words")
    register("broken", factory=broken, summary="s")
    register("absent", factory="not_there_at_all:create", summary="s")
    register("wrong", factory=lambda context: 3, summary="s")
    register("quits", factory=lambda context: exit(3), summary="s")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The golden MDLM with a tokenizer."""
    return tiny.golden("dit", tmp_path / "weights")


def test_an_alias_is_found_and_loaded(fake_dist: Make, folder: Path) -> None:
    fake_dist("fk-alias", ALIAS.format(name="haiku", source=str(folder), family=""))
    registry = load_plugins()
    assert registry.problems() == []
    assert registry.models["haiku"].qualified == "fk-alias:haiku"
    assert registry.plugins[0].models == ("haiku",)
    for name in ("haiku", "fk-alias:haiku", "FK_alias:haiku"):
        assert find(name) == folder
        model = load(name)
        assert (model.name, model.family, model.denoiser.max_length) == (name, "dit", 24)


def test_a_stated_family_must_be_that_of_the_files(fake_dist: Make, folder: Path) -> None:
    fake_dist("fk-alias", ALIAS.format(name="haiku", source=str(folder), family="llada"))
    with pytest.raises(ModelError, match=r"fk-alias:haiku.*says family 'llada'.*files are of family 'dit'"):
        load("haiku")


def test_a_factory_makes_a_model(fake_dist: Make) -> None:
    fake_dist("fk-own", OWN)
    model = load("even", length=9)
    assert (model.name, model.family, model.default_length) == ("even", "even", 9)
    assert model.tokenizer.decode(model.template("a b", 4)[:2].tolist()) == "a b"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("broken", ModelError, "model 'fk-own:broken' cannot be built: OSError: no such weights"),
        ("absent", PluginError, "model 'fk-own:absent' cannot be imported: ModuleNotFoundError"),
        ("wrong", PluginError, "its factory returned int, expected a TextModel"),
        ("quits", ModelError, "cannot be built: SystemExit: 3"),
    ],
)
def test_a_factory_that_fails_is_one_line(fake_dist: Make, name: str, error: type[Exception], message: str) -> None:
    fake_dist("fk-own", OWN)
    with pytest.raises(error, match=message) as caught:
        load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("register('a b', source='x', summary='s')", "model name 'a b'"),
        ("register('a', summary='s')", "expected a source .* or a factory, and not both"),
        ("register('a', source='x', factory='a:b', summary='s')", "and not both"),
        ("register('a', factory='not a path', summary='s')", "expected a callable or 'module:attribute'"),
        ("register('a', source='x', family='gpt', summary='s')", "expected one of bd3lm, dit, duo, llada"),
        ("register('a', source='x')", "summary"),
        ("register('a', source='x', summary='s', colour=1)", "colour"),
        ("[register('a', source='x', summary='s') for _ in range(2)]", "registered twice"),
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
    ],
)
def test_a_wrong_registration_is_recorded(fake_dist: Make, call: str, message: str) -> None:
    fake_dist("fk-bad", f"@hookimpl\ndef fktext_register_models(register):\n    {call}\n")
    fake_dist("fk-own", OWN)
    registry = load_plugins()
    bad, good = registry.plugins
    assert (bad.status, good.status) == ("hook-error", "ok")
    assert re.search(message, bad.error)
    assert "a" not in registry.models
    assert load("even").name == "even"


def test_a_misspelt_hook_and_a_failing_import(fake_dist: Make) -> None:
    fake_dist("fk-misspelt", "@hookimpl\ndef fktext_register_model(register): pass")
    fake_dist("fk-absent", "import not_there_at_all", point="haiku")
    errors = {plugin.distribution: plugin.error for plugin in load_plugins().plugins}
    assert "did you mean 'fktext_register_models'?" in errors["fk-misspelt"]
    with pytest.raises(PluginError, match=r"model 'haiku' is not available: plugin fk-absent:haiku .*not_there_at_all"):
        find("haiku")
    with pytest.raises(UsageError, match=r"unknown model 'mdlm-own': did you mean 'mdlm-owt'.*Broken.*fk-absent:haiku"):
        find("mdlm-own")


def test_a_clash_leaves_both_within_reach(fake_dist: Make, folder: Path) -> None:
    for name in ("fk-one", "fk-two"):
        fake_dist(name, ALIAS.format(name="haiku", source=str(folder), family=""))
    registry = load_plugins()
    assert {plugin.distribution: plugin.status for plugin in registry.plugins} == {"fk-one": "conflict", "fk-two": "conflict"}
    assert sorted(registry.models) == ["fk-one:haiku", "fk-two:haiku"]
    with pytest.raises(UsageError, match="model 'haiku' comes from several distributions: write fk-one:haiku or fk-two:haiku"):
        load("haiku")
    assert find("fk-two:haiku") == folder


def test_a_stranger_never_shadows_a_model_of_ours(fake_dist: Make, folder: Path) -> None:
    fake_dist("fk-alias", ALIAS.format(name="tiny-mdlm", source=str(folder), family=""))
    registry = load_plugins()
    assert list(registry.models) == ["fk-alias:tiny-mdlm"]
    assert "fktext also has tiny-mdlm; write fk-alias:tiny-mdlm" in registry.problems()[0]
    assert find("tiny-mdlm") == embedded.path("tiny-mdlm")
    assert find("fk-alias:tiny-mdlm") == folder


def test_a_reward_and_a_model_may_share_a_name(fake_dist: Make, folder: Path) -> None:
    both = ALIAS.format(name="haiku", source=str(folder), family="") + (
        "\n@hookimpl\ndef fktext_register_rewards(register):\n    register('haiku', lambda context: Constant(), summary='s')\n"
    )
    fake_dist("fk-both", both)
    registry = load_plugins()
    assert registry.problems() == []
    assert (list(registry.rewards), list(registry.models)) == (["haiku"], ["haiku"])


def test_the_command_line_lists_and_runs_them(fake_dist: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from fktext_cli import app

    fake_dist("fk-own", OWN)
    fake_dist("fk-absent", "import not_there_at_all")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"}).invoke
    listed = run(app, ["models", "list", "--format", "jsonl"])
    assert listed.exit_code == 0
    rows = {row["name"]: row for row in map(json.loads, listed.stdout.splitlines())}
    assert rows["even"] == {
        "name": "even",
        "family": "even",
        "source": "fk-own",
        "licence": "not stated",
        "summary": "three words",
    }
    assert "not_there_at_all" in listed.stderr
    texts = run(app, ["generate", "a", "--model", "even", "--method", "base", "--samples", "2"])
    assert texts.exit_code == 0, texts.stderr
    assert [set(line.split()) <= {"a", "b", "c"} for line in texts.stdout.splitlines()] == [True, True]
    wrong = run(app, ["generate", "a", "--model", "broken", "--method", "base"])
    assert (wrong.exit_code, wrong.stderr.splitlines()[-1]) == (
        1,
        "error: model 'fk-own:broken' cannot be built: OSError: no such weights",
    )
