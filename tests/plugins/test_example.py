"""The example distribution: found when installed, and its own tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from fktext.plugins import load_plugins

EXAMPLE = Path(__file__).parents[2] / "plugins" / "examples" / "fktext-readability"


def test_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "fktext_readability-0.1.0.dist-info"  # what installing it leaves
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(f"[fktext]\nreadability = {project['entry-points']['fktext']['readability']}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLE)
    registry = load_plugins()
    assert [plugin.status for plugin in registry.plugins if plugin.distribution == "fktext-readability"] == ["ok"]
    term = registry.create("readability:target=hard=2")
    assert term.weight == 2
    assert term.reward.score(["The cat sat.", "Economic considerations predominate."])[0] < -10


def test_its_own_tests_pass() -> None:
    path = os.pathsep.join([str(EXAMPLE), *filter(None, sys.path)])
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=EXAMPLE, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
