"""The command line: parse, call the Python API, print."""

from fktext_cli.app import app, main

__all__ = ["app", "main"]
