"""`fktext rewards`, `plugins`, `models` and `selftest`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

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
        "options": [{"name": "letter", "type": "str", "required": False, "default": "e", "help": "which"}],
        "error": "",
    }
    text = call("rewards")
    assert "letters  (fk-test)\n    how often a letter occurs\n    letter=<str>  which [default e]\n" in text.stdout
    assert text.stderr == "a plugin may print\n"


def test_plugins(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FKTEXT_DISABLE_PLUGINS", "")
    found = {row["plugin"]: row for row in rows(call("plugins", "--format", "jsonl"))}
    assert found["fk-test:main"] == {
        "plugin": "fk-test:main",
        "version": "1.0",
        "status": "ok",
        "rewards": ["letters", "fails"],
        "error": "",
    }
    assert found["fk-broken:main"]["status"] == "import-error"
    text = call("plugins")
    assert text.exit_code == 0
    assert text.stdout.splitlines()[0].split() == ["plugin", "version", "status", "rewards", "error"]
    assert "letters, fails" in text.stdout


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
    assert result.stderr.startswith("error: --device 'nowhere' cannot be used here: ")
    assert result.stderr.count("\n") == 1
