"""A tiny model folder with random weights, a plugin with test rewards, and two ways to run the command line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from tiny import mdlm

PLUGIN = """
import time
import torch
from fktext.plugins import hookimpl

class Letters:
    goal = "more of a letter"
    def __init__(self, letter):
        self.letter = letter
    def score(self, samples):
        print("a reward may print")
        return [float(str(text).count(self.letter)) for text in samples]

class Fails:
    def __init__(self, value, prompt, seconds):
        self.value, self.prompt, self.seconds = value, prompt, seconds
    def score(self, samples):
        time.sleep(self.seconds)
        return [self.value if text.prompt == self.prompt else 0.0 for text in samples]

def letters(context, *, letter: str = "e"):
    return Letters(letter)

def fails(context, *, value: float = 0.0, prompt: str = "", seconds: float = 0.0):
    return Fails(value, prompt, seconds)

@hookimpl
def fktext_register_rewards(register):
    print("a plugin may print")
    register("letters", letters, summary="how often a letter occurs", options={"letter": "which"})
    register("fails", fails, summary="a value for one prompt, 0 for the others")
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DiT of random weights over a few words."""
    return mdlm(tmp_path_factory.mktemp("model") / "tiny", default_length=8, default_steps=6)


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution that brings the rewards `letters` and `fails`, and one that is broken."""
    root = tmp_path_factory.mktemp("site")
    for name, module, text in (("fk-test", "fk_test_plugin", PLUGIN), ("fk-broken", "fk_broken_plugin", "import not_there_at_all")):
        (root / f"{module}.py").write_text(text)
        folder = root / f"{name.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[fktext]\nmain = {module}\n")
    return root


@pytest.fixture
def call(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Run the command line in this process."""
    from fktext_cli import app

    monkeypatch.syspath_prepend(plugin_path)
    monkeypatch.setenv("FKTEXT_DISABLE_PLUGINS", "fk-broken")
    for name in ("FKTEXT_DEBUG", "FKTEXT_STRICT_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    runner = CliRunner(env={"NO_COLOR": "1", "COLUMNS": "100", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, [str(item) for item in arguments], prog_name="fktext")


def heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(plugin_path: Path, tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command line as a process of its own, in an empty folder."""

    def launch(*arguments: object, **options: object) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(plugin_path), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": path, "FKTEXT_DISABLE_PLUGINS": "fk-broken", "HF_HUB_OFFLINE": "1"}
        environment["OMP_NUM_THREADS"] = "1"  # two threads on a busy core wait for each other at every layer
        command = [sys.executable, "-m", "fktext_cli", *map(str, arguments)]
        # a test run started in the background ignores interrupts, and children would inherit that
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "preexec_fn": heed_interrupts, **options}
        return subprocess.Popen(command, env=environment, cwd=tmp_path, text=True, **streams)  # type: ignore[call-overload,no-any-return]

    return launch
