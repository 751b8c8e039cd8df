"""A tiny model folder with random weights, a plugin with test judges, and a suite over them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import Browser, find

from fktext_evals import Results, run
from tiny import mdlm

PLUGIN = """
import math
import os
import time
from pathlib import Path
from fktext.plugins import hookimpl

class Letters:
    digest = "0123"
    def __init__(self, letter, after, value, meet):
        self.letter, self.after, self.value, self.meet = letter, after, value, meet
    def score(self, samples):
        if self.meet:  # wait for another process to be as far
            (Path(self.meet) / str(os.getpid())).touch()
            while len(list(Path(self.meet).iterdir())) < 2:
                time.sleep(0.01)
        self.after -= 1
        if self.after == 0:
            if math.isnan(self.value):
                raise OSError("the judge is gone")
            return [self.value] * len(samples)
        return [math.log((text.continuation.count(self.letter) + 0.5) / (len(text.continuation) + 1)) for text in samples]

def letters(context, *, letter: str = "e", after: int = 0, value: float = math.nan, meet: str = ""):
    return Letters(letter, after, value, meet)

@hookimpl
def fktext_register_rewards(register):
    print("a plugin may print")
    register("letters", letters, summary="log of the share of a letter")
"""

SUITE = """
name = "words"
description = "a test"
prompts = ["the book", "the city", "she"]
rewards = ["letters"]
model = "{model}"
samples = 2
seeds = [0, 7]

[settings]
length = 8
steps = 6
resample_every = 2
ess_threshold = 0.5

[[methods]]
name = "base"
method = "base"

[[methods]]
name = "best-of-n"
method = "best-of-n"
particles = 2

[[methods]]
name = "fk"
particles = [2, 3]
potential = "max"

[[judges]]
name = "steering"
reward = "letters"
label = "e-ful"
threshold = 0.2

[[judges]]
name = "held-out"
reward = "letters:letter=a"
label = "a-ful"
threshold = 0.1
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a DiT of random weights over a few words."""
    return mdlm(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def plugin_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a distribution that brings the reward `letters`."""
    root = tmp_path_factory.mktemp("site")
    (root / "fk_judges_plugin.py").write_text(PLUGIN)
    folder = root / "fk_judges-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: fk-judges\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text("[fktext]\nmain = fk_judges_plugin\n")
    return root


@pytest.fixture(autouse=True)
def judges(plugin_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tests use the plugin, and no shards."""
    monkeypatch.syspath_prepend(plugin_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "FKTEXT_STRICT_PLUGINS", "FKTEXT_DISABLE_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def suite_text(tiny: Path) -> str:
    """A suite of 3 prompts x 2 samples x 2 seeds x 4 methods: 48 texts."""
    return SUITE.replace("{model}", str(tiny))


@pytest.fixture
def suite_file(suite_text: str, tmp_path: Path) -> Path:
    """The suite's file."""
    path = tmp_path / "words.toml"
    path.write_text(suite_text)
    return path


@pytest.fixture(scope="session")
def whole(suite_text: str, plugin_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The suite, run without interruption."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "words.toml").write_text(suite_text)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugin_path)
        return run(str(folder / "words.toml"), out=folder / "run")


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A Chromium, where there is one."""
    program = find()
    if program is None:
        pytest.skip("no Chromium on this machine: install it from the system's packages, or name one in FKTEXT_CHROMIUM")
    try:
        found = Browser(program, tmp_path_factory.mktemp("profile"))
    except (RuntimeError, TimeoutError, subprocess.SubprocessError) as error:
        pytest.skip(f"{program} does not start here: {error}")
    yield found
    found.close()
