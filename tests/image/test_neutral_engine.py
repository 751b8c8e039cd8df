"""One engine for texts and images: its files speak of neither."""

import re
from pathlib import Path

import pytest

import fktext

ROOT = Path(fktext.__file__).parent
FILES = [ROOT / name for name in ("steer.py", "potentials.py", "schedules.py", "process.py")] + sorted((ROOT / "smc").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_engine_file_knows_what_is_generated(path):
    words = path.read_text().lower().replace("fktext", "")
    assert re.findall(r"\b(?:texts?|images?|pixels?|words?|tokens?)\b", words) == []
