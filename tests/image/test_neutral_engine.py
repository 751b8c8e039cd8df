"""One engine for texts and images: its files speak of neither."""

import re
from pathlib import Path

import pytest

import fktext

ROOT = Path(fktext.__file__).parent
NAMES = ("steer", "potentials", "schedules", "process", "__init__", "resamplers", "weights")
FILES = [ROOT / "smc" / f"{name}.py" for name in NAMES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_engine_file_knows_what_is_generated(path):
    words = path.read_text().lower().replace("fktext", "")
    assert re.findall(r"\b(?:texts?|images?|pixels?|words|tokens?)\b", words) == []
