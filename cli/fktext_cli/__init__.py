"""The command line: it parses, calls the Python API, and prints."""

import os
import sys

try:
    for _name in ("stdout", "stderr"):
        if getattr(sys, _name) is None:  # closed by the caller
            setattr(sys, _name, open(os.devnull, "w"))  # noqa: PTH123, SIM115  it stays open
    from fktext_cli.app import app, main
except KeyboardInterrupt:  # importing takes a while too
    sys.exit(130)

__all__ = ["app", "main"]
