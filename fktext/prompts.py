"""Prompts from a file; every line is checked before anything runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fktext.errors import UsageError

KEYS = ("prompt", "text", "context_string")


@dataclass(frozen=True)
class Prompt:
    """A prompt and where it was written, as `file:line`, or "" on the command line."""

    text: str
    where: str = ""


def read_prompts(path: Path) -> list[Prompt]:
    """Read a prompts file.

    `.txt` has a prompt per line. `.jsonl` has a JSON string or an object per line, and `.csv` has a header; the prompt is under
    "prompt", "text" or "context_string", whichever comes first in this order (in JSON it may be one level down, as in
    `{"prompt": {"text": ...}}`). Only JSON and CSV can hold an empty prompt or line breaks.

    Raises:
        UsageError: the file cannot be read, or a line holds no prompt; names `file:line`.
    """
    readers: dict[str, Callable[[Path, str], Iterator[Prompt]]] = {".txt": _txt, ".jsonl": _jsonl, ".csv": _csv}
    if path.suffix not in readers:
        raise UsageError(f"prompts file {str(path)!r} ends in {path.suffix!r}; expected {', '.join(readers)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read prompts file {str(path)!r}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8: {error.reason} {data[error.start : error.end]!r}") from error
    prompts = list(readers[path.suffix](path, text))
    if not prompts:
        raise UsageError(f"prompts file {str(path)!r} holds no prompt")
    return prompts


def _lines(path: Path, text: str) -> Iterator[tuple[str, str]]:
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield line.removesuffix("\r"), f"{path}:{number}"
        elif number < len(lines) or line:
            raise UsageError(f'{path}:{number}: a blank line; an empty prompt is written as {{"prompt": ""}} in a .jsonl file')


def _txt(path: Path, text: str) -> Iterator[Prompt]:
    return (Prompt(line, where) for line, where in _lines(path, text))


def _jsonl(path: Path, text: str) -> Iterator[Prompt]:
    for line, where in _lines(path, text):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: not JSON: {error}") from error
        yield Prompt(_pick(value, where), where)


def _pick(value: Any, where: str) -> str:
    while isinstance(value, dict):
        key = next((key for key in KEYS if key in value), None)
        if key is None:
            raise UsageError(f"{where}: no key {' or '.join(KEYS)}; it has {', '.join(value) or 'none'}")
        value = value[key]
    if not isinstance(value, str):
        raise UsageError(f"{where}: the prompt is {type(value).__name__} {json.dumps(value)[:40]}; expected a string")
    return value


def _csv(path: Path, text: str) -> Iterator[Prompt]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        column = next((header.index(key) for key in KEYS if key in header), None)
        if column is None:
            raise UsageError(f"{path}:1: no column {' or '.join(KEYS)}; it has {', '.join(header) or 'none'}")
        before = reader.line_num
        for row in reader:
            where, before = f"{path}:{before + 1}", reader.line_num
            if len(row) != len(header):
                raise UsageError(f"{where}: {len(row)} fields; the header has {len(header)}")
            yield Prompt(row[column], where)
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: not CSV: {error}") from error
