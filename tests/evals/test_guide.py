"""The suites that the guide shows can be run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fktext.plugins import load_plugins
from fktext_evals.suites import catalogue

GUIDE = Path(__file__).parents[2] / "docs" / "evals.md"
SUITES = [block for block in re.findall(r"^```toml\n(.*?)^```$", GUIDE.read_text(), re.M | re.S) if "name =" in block.split("[")[0]]


@pytest.mark.parametrize("text", SUITES)
def test_a_suite_of_the_guide_is_valid(text: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('"she"\n')
    (tmp_path / "mine.toml").write_text(text)
    found = catalogue.load(str(tmp_path / "mine.toml"))
    catalogue.check(found, load_plugins())


def test_one_is_for_a_model_of_ones_own() -> None:
    assert len(SUITES) == 3
    assert any(re.search(r'^model = "\./', block, re.M) for block in SUITES)
