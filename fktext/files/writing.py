"""Write results: files whole or not at all, and -inf as JSON has it."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file so that nobody ever sees a part of it: aside, under another name, then in one move.

    Args:
        path: where to; its folder exists.
        data: what it holds.
        replace: whether a file that is there gives way. If not it stays: of several processes that start together one wins.

    Raises:
        OSError: it cannot be written; nothing stays behind.
    """
    aside = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        aside.write_bytes(data)
        if replace:
            aside.replace(path)
        else:
            with suppress(FileExistsError):
                os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def to_json(value: float) -> float | None:
    """Return the number as JSON has it: -inf, the only infinity a reward can be, as null; so is NaN, where there is no number."""
    return None if value == -math.inf or math.isnan(value) else value


def from_json(value: float | None) -> float:
    """Return the number that `to_json` was given."""
    return -math.inf if value is None else value
