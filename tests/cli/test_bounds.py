"""Numbers and names that nobody can mean are refused in a line, before anything is made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from fktext.errors import UsageError
from fktext.settings import Settings

Call = Callable[..., Result]
HUGE = 10**20


def assert_refused(result: Result, *said: str) -> None:
    assert result.exit_code == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line != "a plugin may print"]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: "), result.stderr
    assert all(part in lines[0] for part in said), result.stderr


@pytest.mark.parametrize(
    ("command", "option", "most"),
    [
        ("generate", "-n", 1_000_000),
        ("generate", "--samples", 100_000),
        ("generate", "--length", 100_000),
        ("generate", "--stride", 100_000),
        ("generate", "--steps", 100_000),
        ("generate", "--resample-every", 100_000),
        ("generate", "--x0-samples", 1_000),
        ("image generate", "-n", 1_000_000),
        ("image generate", "--samples", 100_000),
        ("image generate", "--steps", 100_000),
        ("image generate", "--width", 16_384),
        ("image generate", "--height", 16_384),
        ("image generate", "--batch-size", 1_000_000),
        ("score good.txt -r letters", "--batch-size", 1_000_000),
        ("bench", "-n", 1_000_000),
        ("bench", "--prompts", 100_000),
        ("bench", "--steps", 100_000),
        ("bench", "--length", 100_000),
        ("bench", "--x0-samples", 1_000),
        ("bench", "--dense-steps", 100_000),
        ("selftest", "--populations", 100_000),
    ],
)
def test_numbers(call: Call, command: str, option: str, most: int) -> None:
    for value in (most + 1, HUGE):
        assert_refused(call(*command.split(), option, value), f"'{option}'", f"less than or equal to {most}, got '{value}'")
    assert f"<={most}" in call(*command.split(), "--help").stdout


@pytest.mark.parametrize("value", ["inf", "nan", 1001])
@pytest.mark.parametrize(
    ("command", "option"),
    [("generate", "--ess-threshold"), ("image generate", "--ess-threshold"), ("image generate", "--guidance-scale")],
)
def test_scales(call: Call, command: str, option: str, value: object) -> None:
    assert_refused(call(*command.split(), option, value), f"'{option}'", f"less than or equal to 1000, got '{value}'")


@pytest.mark.parametrize("value", [0, -1, 1_000_001, HUGE, "9" * 5000, "½", "²", ""])
@pytest.mark.parametrize("command", ["generate", "eval run suite"])
def test_batch_sizes(call: Call, command: str, value: object) -> None:
    assert_refused(call(*command.split(), "--batch-size", value), "is neither auto nor a number from 1 to 1000000")


def test_names_too_long_for_a_file_system(call: Call, tmp_path: Path) -> None:
    name = "n" * 300
    command = ("generate", "--method", "base")
    for arguments in (
        (*command, "-o", tmp_path / name),
        (*command, "--trace", tmp_path / f"{name}.html"),
        ("image", "generate", "--method", "base", "-o", tmp_path / name),
        ("plugin", "new", "politeness", "--out", tmp_path / name),
    ):
        assert_refused(call(*arguments), "name is too long")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"particles": "4"}, "particles must be a whole number, got '4' (str)"),
        ({"particles": 4.5}, "particles must be a whole number, got 4.5 (float)"),
        ({"particles": None}, "particles must be a whole number, got None (NoneType)"),
        ({"lam": "2"}, "lam must be a number, got '2' (str)"),
        ({"lam": -1}, "lam must be at least 0, got -1; to steer the other way, give the reward a negative weight"),
        ({"lam": float("nan")}, "lam must be a finite number, got nan"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, got 0"),
        ({"top_p": 2}, "top_p must be at most 1, got 2"),
        ({"ess_threshold": -1}, "ess_threshold must be at least 0 and at most 1,000, got -1"),
    ],
)
def test_the_library_says_what_it_takes(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings(**asked)
    assert str(caught.value) == said


def test_the_command_line_takes_no_lambda_that_the_library_refuses(call: Call) -> None:
    assert_refused(call("generate", "--lambda", "-1"), "'--lambda'", "greater than or equal to 0, got '-1'")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--max-new-tokens", "use --length (it counts the tokens of the whole text, prompt included)"),
        ("--top-k", "use --top-p (there is no top-k)"),
        ("--num-return-sequences", "use --samples (texts per prompt, each the best of its own particles)"),
        ("--lam", "use --lambda"),
    ],
)
def test_an_option_of_other_programs_is_told_as_ours(call: Call, option: str, said: str) -> None:
    assert_refused(call("generate", "the", option, "4"), f"No such option: {option}; {said}")
    assert "use --" not in call("score", "a.txt", option, "4").stderr  # which has none of them


def test_an_unknown_path_is_no_misspelt_name(call: Call) -> None:
    shown, checked = (call("models", command, "./nothere") for command in ("show", "check"))
    assert_refused(shown, "model './nothere': there is no such file or folder")
    assert shown.stderr == checked.stderr


def test_a_device_that_torch_was_not_built_for_is_a_short_line(call: Call) -> None:
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("there is one")
    wrong = call("generate", "the", "--method", "base", "--device", "mps")
    assert_refused(wrong, "device 'mps' cannot be used here: this build of torch has no such device")
    assert len(wrong.stderr) < 200
