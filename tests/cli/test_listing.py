"""`fktext rewards`, `plugins`, `models` and `selftest`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

import pytest
from typer.testing import Result

Call = Callable[..., Result]


def rows(result: Result) -> list[dict[str, object]]:
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_rewards(call: Call) -> None:
    found = {row["name"]: row for row in rows(call("rewards", "--format", "jsonl"))}
    assert found["letters"] == {
        "name": "letters",
        "distribution": "fk-test",
        "summary": "how often a letter occurs",
        "options": [{"name": "letter", "type": "text", "required": False, "default": "e", "help": "which"}],
        "error": "",
        "modality": "text",
    }
    text = call("rewards")
    assert "letters  (fk-test)\n    how often a letter occurs\n    letter=<text>  which [default e]\n" in text.stdout
    assert text.stderr == "a plugin may print\n"
    assert "Every reward of texts also takes part=<text|continuation>, trim=<int>, empty=<float>" in text.stdout


def test_one_reward(call: Call) -> None:
    text = call("rewards", "show", "toxicity")
    assert text.exit_code == 0, text.stderr
    lines = [line.strip() for line in text.stdout.splitlines()]
    assert lines[0] == f"toxicity  (fktext {version('fktext')})"
    assert "target=<toxic|nontoxic>  the direction: toxic for red-teaming, nontoxic to steer away [default toxic]" in lines
    assert "trim=<int>  score only so many words of what follows the prompt [default not set]" in lines
    assert "values: at most 0, nats: a log-probability" in lines
    assert any(line.startswith("model tiny-toxicity, heldout-toxicity: CC BY-SA 4.0") for line in lines)

    shown = call("rewards", "show", "fk-test:letters", "--json")
    assert shown.exit_code == 0, shown.stderr
    row = json.loads(shown.stdout)
    assert (row["name"], row["distribution"], row["version"]) == ("letters", "fk-test", "1.0")
    assert [option["name"] for option in row["options"]] == ["letter"]
    assert [option["name"] for option in row["text_options"]] == ["part", "trim", "empty"]
    assert (row["values"], row["models"], row["error"]) == ("", {}, "")
    assert "values: not said" in call("rewards", "show", "letters").stdout

    wrong = call("rewards", "show", "toxicty")
    assert wrong.exit_code == 2
    assert "did you mean 'toxicity'?" in wrong.stderr


def test_every_built_in_reward_says_its_range_and_its_models(call: Call) -> None:
    from fktext.plugins import load_plugins

    for entry in load_plugins().rewards.values():
        if entry.distribution == "fktext":
            assert entry.values, entry.name
            assert entry.models or "model" not in entry.options(), entry.name


def test_plugins(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FKTEXT_DISABLE_PLUGINS", "")
    found = {row["plugin"]: row for row in rows(call("plugins", "--format", "jsonl"))}
    assert found["fk-test:main"] == {
        "plugin": "fk-test:main",
        "distribution": "fk-test",
        "version": "1.0",
        "status": "ok",
        "hooks": ["fktext_register_rewards"],
        "rewards": ["letters", "fails"],
        "models": [],
        "suites": [],
        "parts": [],
        "error": "",
    }
    assert found["fk-broken:main"]["status"] == "import-error"
    text = call("plugins")
    assert text.exit_code == 0
    assert "fk-test:main  1.0  ok\n    rewards: letters, fails\n" in text.stdout
    assert "fk-broken:main  1.0  import-error\n    error:   ModuleNotFoundError: No module named" in text.stdout
    assert call("plugins", "list").stdout == text.stdout
    assert call("plugins", "list", "--format", "jsonl").stdout == call("plugins", "--format", "jsonl").stdout
    document = call("plugins", "list", "--json")
    assert document.exit_code == 0, document.stderr
    assert {row["plugin"]: row for row in json.loads(document.stdout)} == found
    assert call("plugins", "--format", "json").stdout == document.stdout


def test_on_a_terminal_lists_fit_its_width(call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from fktext_cli import plugins, rewards

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    plugins._print_all(plugins.plugins())
    rewards._print_all(rewards.rewards())
    lines = capsys.readouterr().out.splitlines()
    assert "fktext:builtin  " in "\n".join(lines)
    assert len(lines) > 60
    assert [line for line in lines if len(line) > 80] == []


@pytest.mark.parametrize("command", ["rewards", "models", "plugins", "value"])
def test_every_list_is_one_document_or_a_line_each(call: Call, command: str) -> None:
    document = json.loads(call(command, "--format", "json").stdout)
    assert document == rows(call(command, "list", "-f", "jsonl"))
    assert document == json.loads(call(command, "list", "--json").stdout), "the older spelling"
    assert "--json" not in call(command, "list", "--help").stdout


def test_what_is_shown_is_one_document_or_a_line(call: Call) -> None:
    for command in (("rewards", "show", "letters"), ("models", "show", "tiny-mdlm"), ("value", "show", "tiny-mdlm-toxic")):
        document = json.loads(call(*command, "--format", "json").stdout)
        assert rows(call(*command, "--format", "jsonl")) == [document]
        assert json.loads(call(*command, "--json").stdout) == document


def test_models(call: Call) -> None:
    assert "tiny-mdlm" in {row["name"] for row in rows(call("models", "--format", "jsonl"))}
    assert call("models").stdout.splitlines()[0].split() == ["name", "family", "source", "licence", "summary"]


def test_selftest(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from fktext.testing import selftest

    checks = selftest.run(populations=200, device="cpu")
    two = [next(checks), next(checks)]  # the whole of it takes half a minute

    def run(**settings: object) -> list[selftest.Row]:
        assert settings == {"populations": 2000, "device": "cpu", "seed": 4}
        return two

    monkeypatch.setattr(selftest, "run", run)
    command = ("selftest", "--device", "cpu", "--populations", 2000, "--seed", 4)
    text = call(*command)
    assert text.exit_code == 0, text.stderr
    assert [line.split()[-1] for line in text.stdout.splitlines()] == ["ok", "ok"]
    assert text.stderr.startswith("2 of 2 checks passed on cpu")
    assert [row["check"] for row in rows(call(*command, "--format", "jsonl"))] == [row.check for row in two]

    two[1] = replace(two[1], passed=False)
    wrong = call(*command)
    assert wrong.exit_code == 1
    assert wrong.stdout.splitlines()[1].endswith("FAILED")
    assert wrong.stderr.startswith("1 of 2 checks passed")


def test_selftest_refuses_a_device_that_is_not_there(call: Call) -> None:
    result = call("selftest", "--device", "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: device 'nowhere' cannot be used here: ")
    assert result.stderr.count("\n") == 1
