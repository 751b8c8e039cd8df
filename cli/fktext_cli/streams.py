"""Keep standard output for results alone, and send a terminal nothing that it would obey."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import os
import sys
from typing import TextIO


def protect() -> None:
    """Protect standard output and standard error from plugins, models and the libraries below them.

    From here on, and until the program ends, `sys.stdout` and `sys.stderr` are duplicates that nobody closes, and file descriptor 1
    is standard error: what C code writes to it, or Python to `sys.__stdout__`, is no result.
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
    """A stream that stays open when it is closed."""

    @classmethod
    def of(cls, stream: TextIO) -> _Lasting:
        """Open another way to where a stream leads."""
        file = open(os.dup(stream.fileno()), "wb", closefd=False)  # noqa: SIM115  it ends with the program
        # with PYTHONUNBUFFERED a stream writes through, and says that it buffers no lines
        through = bool(getattr(stream, "write_through", False))
        return cls(file, stream.encoding, stream.errors, line_buffering=through or bool(stream.line_buffering))

    def close(self) -> None:
        """Write what is left, and stay open."""
        self.flush()


def silence(stream: TextIO) -> None:
    """Point a stream at nothing, so that Python does not try again at exit, and complain."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def visible(text: str) -> str:
    """Return the text with escapes for the characters that a terminal would obey.

    Example:
        >>> print(visible("bell \\x07, red \\x1b[31m, café"))
        bell \\x07, red \\x1b[31m, café
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)
