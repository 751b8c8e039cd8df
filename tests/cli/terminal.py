"""A real pseudo-terminal for tests: a program runs in it, and pyte says what a person would see."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pyte


class Terminal:
    """Run the command line in a terminal of so many columns and lines; only stdout may go elsewhere.

    Args:
        arguments: of `fktext`.
        columns, lines: of the terminal.
        stdout: where stdout goes; the terminal, if nowhere else.
    """

    def __init__(
        self, *arguments: object, columns: int, lines: int = 24, stdout: Path | None = None, environment: Mapping[str, str] = {}
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        sink = stdout.open("wb") if stdout else theirs
        clean = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fktext_cli", *map(str, arguments)],
            stdin=theirs,
            stdout=sink,
            stderr=theirs,
            env={**clean, "TERM": "xterm-256color", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
            close_fds=True,
        )
        os.close(theirs)
        if stdout:
            sink.close()  # type: ignore[union-attr]
        self._end = ours

    @property
    def shown(self) -> list[str]:
        """The lines of the screen, without what is empty at their ends."""
        return [line.rstrip() for line in self.screen.display]

    def run(self, look: Callable[[list[str]], None] = lambda shown: None, seconds: float = 120) -> int:
        """Let the program run to its end, looking at the screen whenever it has changed; return its exit status."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not select.select([self._end], [], [], 0.2)[0]:
                continue
            try:
                data = os.read(self._end, 1 << 16)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                break
            self.raw += data
            self._stream.feed(data)
            look(self.shown)
        os.close(self._end)
        return self.process.wait(20)
