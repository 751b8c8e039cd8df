"""Standard output for results alone, and nothing on a terminal that it would obey, whatever plugins do."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
from typing import TextIO


def protect() -> None:
    """Keep standard output and standard error from what plugins, models and the libraries below them do to them.

    From here on `sys.stdout` and `sys.stderr` are duplicates that nobody closes, and file descriptor 1 is standard error: what C
    code writes to it, or Python to `sys.__stdout__`, is no result. For a program of its own: it stays so until that ends.
    """
    stdout, stderr = sys.stdout, sys.stderr
    if id(stdout) != id(sys.__stdout__):  # closed by the caller, or replaced: nobody reads descriptor 1
        return
    with contextlib.suppress(io.UnsupportedOperation):
        stdout.flush()
        sys.stdout, sys.stderr = _Lasting.of(stdout), _Lasting.of(stderr)
        os.dup2(sys.stderr.fileno(), stdout.fileno())
        faulthandler.enable(sys.stderr)  # a plugin that dies in C code is named by the line it dies in


class _Lasting(io.TextIOWrapper):
    """A stream that outlives its being closed."""

    @classmethod
    def of(cls, stream: TextIO) -> _Lasting:
        """Another way to where a stream leads."""
        file = open(os.dup(stream.fileno()), "wb", closefd=False)  # noqa: SIM115  it ends with the program
        return cls(file, stream.encoding, stream.errors, line_buffering=bool(stream.line_buffering))

    def close(self) -> None:
        """Write what is left, and stay open."""
        self.flush()


def silence(stream: TextIO) -> None:
    """Point a stream at nothing, so that what it could not write is not tried again, with a complaint, at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def visible(text: str) -> str:
    """The text with characters that a terminal would obey as escapes.

    Example:
        >>> print(visible("bell \\x07, red \\x1b[31m, café"))
        bell \\x07, red \\x1b[31m, café
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
