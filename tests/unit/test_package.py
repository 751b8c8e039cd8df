"""The package itself."""

import subprocess
import sys

import pytest

import fktext


def test_every_public_name_exists():
    for name in fktext.__all__:
        assert getattr(fktext, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        _ = fktext.nonsense


def test_importing_costs_no_torch():
    code = "import sys, fktext, fktext.models, fktext.plugins, fktext_plugins; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
