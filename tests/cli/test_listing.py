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
    from fktext.testing import exact

    real = exact.checks

    def few(**settings: object) -> list[exact.Check]:
        assert settings == {"populations": 300, "device": "cpu", "seed": 4}
        checks = real(populations=300, device="cpu", seed=4)
        return [next(checks), next(checks)]

    monkeypatch.setattr(exact, "checks", few)
    command = ("selftest", "--device", "cpu", "--populations", 300, "--seed", 4)
    text = call(*command)
    assert text.exit_code == 0, text.stderr
    assert [line.split()[-1] for line in text.stdout.splitlines()] == ["law", "ok", "ok"]
    assert text.stderr.startswith("2 of 2 within")
    assert all(row["passed"] for row in rows(call(*command, "--format", "jsonl")))

    monkeypatch.setattr(exact, "checks", lambda **settings: [replace(few(**settings)[0], z_law=9.0)])
    wrong = call(*command)
    assert wrong.exit_code == 1
    assert "FAILED" in wrong.stdout
    assert "0 of 1 within" in wrong.stderr


def test_selftest_refuses_a_device_that_is_not_there(call: Call) -> None:
    result = call("selftest", "--device", "nowhere")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --device 'nowhere' cannot be used here: ")
    assert result.stderr.count("\n") == 1
