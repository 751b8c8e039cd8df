"""Streams: what is written, and when."""

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_progress_is_seen_while_a_command_runs(unbuffered):
    """Standard error is written line by line, also where Python is told not to buffer."""
    code = "import os, sys\nfrom fktext_cli.streams import protect\nprotect()\nprint('on the way', file=sys.stderr)\nos._exit(0)\n"
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stderr == "on the way\n"
