"""`fktext plugin new`: what it writes is found, steers and passes its own tests."""

from __future__ import annotations

import importlib
import os
import resource
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from fktext.plugins import load_plugins

Call = Callable[..., Result]


def test_new_package_works(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("plugin", "new", "very-polite", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    folder = tmp_path / "fktext-very-polite"
    assert str(folder) in result.stdout
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()) == [
        "README.md",
        "fktext_very_polite/__init__.py",
        "fktext_very_polite/reward.py",
        "pyproject.toml",
        "tests/test_fktext_very_polite.py",
    ]
    assert not [file for file in folder.rglob("*") if file.is_file() and "$" in file.read_text()]

    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / "fktext_very_polite-0.1.0.dist-info"  # what installing it leaves
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = "".join(f"{name} = {module}\n" for name, module in project["entry-points"]["fktext"].items())
    (info / "entry_points.txt").write_text(f"[fktext]\n{points}")
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    term = load_plugins().create("very-polite:word=Lake")
    assert term.reward.score(["the lake", "a lake, a lake lake", ""]) == [1, 2, 0]
    (tmp_path / "texts.txt").write_text("the lake\n")
    assert '"reward": 1.0' in call("score", tmp_path / "texts.txt", "-r", "very-polite").stdout

    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 passed" in done.stdout
    assert " failed" not in done.stdout

    again = call("plugin", "new", "fktext-very-polite", "--out", tmp_path)
    assert again.exit_code == 2
    assert "already has a reward 'very-polite'" in again.stderr


def test_refused(call: Call, tmp_path: Path) -> None:
    (tmp_path / "fktext-polite").mkdir()
    for arguments, message in (
        (["polite", "--out", tmp_path], "exists"),
        (["other", "--out", tmp_path / "no"], "there is no folder"),
        (["toxicity", "--out", tmp_path], "fktext already has a reward 'toxicity'"),
        (["Not A Name", "--out", tmp_path], "expected small letters"),
        (["../x", "--out", tmp_path], "expected small letters"),
    ):
        result = call("plugin", "new", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr.splitlines()[-1]
    assert [item.name for item in tmp_path.iterdir()] == ["fktext-polite"]
    assert not list((tmp_path / "fktext-polite").iterdir())


def test_a_disk_that_is_full_leaves_nothing_behind(call: Call, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700, limits[1]))  # more than pyproject.toml takes, less than the reward
    try:
        result = call("plugin", "new", "polite", "--out", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "fktext-polite': File too large" in result.stderr
    assert not list(tmp_path.iterdir())
