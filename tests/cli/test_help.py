"""Startup: help is fast and imports nothing heavy."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable

import pytest
from typer.testing import Result

import fktext


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_takes_less_than_300_ms_and_no_heavy_import() -> None:
    program = (
        "import sys\nfrom fktext_cli import app\n"
        "try: app(['--help'])\n"
        "finally: print([name for name in ('torch', 'transformers', 'numpy', 'pydantic') if name in sys.modules], file=sys.stderr)"
    )
    path = os.pathsep.join(filter(None, sys.path))
    seconds: list[float] = []
    while len(seconds) < 10 and min(seconds, default=1) >= 0.3:  # a busy machine slows some of them
        before = cpu_seconds()  # not the clock on the wall: tests run side by side
        done = subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        seconds.append(cpu_seconds() - before)
        assert done.returncode == 0, done.stderr
        assert "generate" in done.stdout
        assert done.stderr.strip() == "[]"
    assert min(seconds) < 0.3


@pytest.mark.parametrize("command", ["generate", "rewards", "plugins", "models", "selftest"])
def test_every_command_has_help(call: Callable[..., Result], command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "Usage: fktext " + command in result.stdout


def test_generate_names_every_option(call: Callable[..., Result]) -> None:
    names = "model reward particles samples prompts length steps potential lambda resample-every ess-threshold resampler x0-samples"
    names += " method return temperature top-p seed device dtype batch-size offline output format overwrite resume"
    text = call("generate", "--help").stdout
    assert [name for name in names.split() if f"--{name} " not in text] == []


def test_the_default_model_is_the_library_s() -> None:
    import inspect

    from fktext.models import DEFAULT
    from fktext_cli.generate import generate

    assert inspect.signature(generate).parameters["model"].default == DEFAULT


def test_version(call: Callable[..., Result]) -> None:
    assert call("--version").stdout == f"fktext {fktext.__version__}\n"


def test_nothing_is_help_and_a_usage_error(call: Callable[..., Result]) -> None:
    result = call()
    assert result.exit_code == 2
    assert "Commands" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["generat"], "Did you mean 'generate'?"),
        (["generate", "--partcles", "3"], "--particles"),
        (["generate", "--particles"], "--particles"),
    ],
)
def test_a_misspelt_command_or_option_is_one_line(call: Callable[..., Result], arguments: list[str], text: str) -> None:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr
