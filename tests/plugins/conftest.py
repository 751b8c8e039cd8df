"""Fake distributions: a module and a real dist-info folder on a temporary sys.path."""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HEAD = """
from typing import Annotated, Literal
from pydantic import Field
from fktext.plugins import hookimpl

class Constant:
    def __init__(self, **values):
        self.values = values
    def score(self, samples):
        return [0.0] * len(samples)
"""


@pytest.fixture
def fake_dist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Install a distribution `name` whose entry point `point` leads to a module with `body`; returns the module's name.

    The distribution `fktext` itself is replaced by an empty one, so that only fakes are seen; a fake of that name is a built-in.
    """
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("FKTEXT_DISABLE_PLUGINS", raising=False)
    monkeypatch.delenv("FKTEXT_STRICT_PLUGINS", raising=False)
    before = set(sys.modules)

    def make(name: str, body: str, *, point: str | None = None, version: str = "1.0", entry_points: str | None = None) -> str:
        module = f"fake_{name.replace('-', '_')}_{point or 'main'}"
        (tmp_path / f"{module}.py").write_text(HEAD + textwrap.dedent(body))
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir(exist_ok=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        text = entry_points or f"[fktext]\n{point or name.removeprefix('fk-')} = {module}\n"
        (folder / "entry_points.txt").write_text(text)
        importlib.invalidate_caches()
        return module

    make("fktext", "", entry_points="[console_scripts]\nnothing = nothing:nothing\n")
    yield make
    for module in set(sys.modules) - before:
        if module.startswith("fake_"):
            del sys.modules[module]
    importlib.invalidate_caches()
