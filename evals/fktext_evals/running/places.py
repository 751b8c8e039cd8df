"""Folders of runs that are not on this machine: any address of fsspec, such as `s3://bucket/runs/mine`.

Such a place holds whole objects and appends nothing: a run there has an object for each cell, and for each session.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from fktext.errors import FktextError, UsageError, one_line


class PlaceError(FktextError):
    """Says that an address cannot be read or written."""


def place(address: str | os.PathLike[str]) -> Path:
    """Return a folder as a path, or what acts as one for an address with "://" in it.

    Raises:
        UsageError: nothing is installed that can reach such an address.
    """
    if "://" not in str(address):
        return Path(address)
    try:
        from upath import UPath

        return cast(Path, UPath(str(address), use_listings_cache=False))  # others write there, too
    except ImportError as error:
        package = "universal-pathlib" if "upath" in str(error) else "the package that fsspec needs for it"
        raise UsageError(f"{str(address)!r} cannot be reached without {package} ({one_line(error)}); see docs/scale.md") from error
    except ValueError as error:
        raise UsageError(f"{str(address)!r} is no address that fsspec knows: {one_line(error)}") from error


def is_remote(folder: object) -> bool:
    """Say whether a folder is an address."""
    return "://" in str(folder)


@contextmanager
def reaching(folder: object) -> Iterator[None]:
    """Turn what goes wrong on the way to an address, of whatever class, into one line; elsewhere do nothing.

    Raises:
        PlaceError: something did.
    """
    try:
        yield
    except FktextError:
        raise
    except Exception as error:
        if not is_remote(folder):
            raise
        raise PlaceError(f"cannot reach {str(folder)!r}: {type(error).__name__}: {one_line(error)}") from error


class Objects:
    """Takes the place of `fktext_evals.running.results.RowFile` at an address: an object for each append, named by its first row.

    Args:
        path: what the file would be; its stem begins the names.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.notes: tuple[str, ...] = ()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows, all or none.

        Raises:
            PlaceError: they cannot be written.
        """
        lines = [json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows]
        if lines:
            name = f"{self.path.stem}-{hashlib.sha256(lines[0]).hexdigest()[:16]}.jsonl"
            with reaching(self.path):
                self.path.with_name(name).write_bytes(b"".join(lines))

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Objects:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def add_session(folder: Path, session: Mapping[str, Any]) -> None:
    """Note who runs it this time.

    Raises:
        PlaceError: it cannot be written.
    """
    with reaching(folder):
        (folder / f"sessions-{uuid4().hex[:16]}.jsonl").write_bytes(json.dumps(session).encode() + b"\n")
