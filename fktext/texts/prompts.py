"""Read prompts from a file; every line is checked before anything runs."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fktext.errors import UsageError
from fktext.texts.templates import Template

KEYS = ("prompt", "text", "context_string")
TEMPLATE = "template"


@dataclass(frozen=True)
class Prompt:
    """A prompt or a template.

    Attributes:
        text: as it was written.
        where: `file:line`, or "" on the command line.
        is_template: whether it is one.
        extra: what else its line says, such as an id.
    """

    text: str
    where: str = ""
    is_template: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def request(self) -> str | Template:
        """As `fktext.texts.generate.generate` takes it.

        Raises:
            UsageError: a malformed template; names the place.
        """
        try:
            return Template(self.text) if self.is_template else self.text
        except UsageError as error:
            raise UsageError(f"{self.where}: {error}" if self.where else str(error)) from error


def read_prompts(path: Path, *, templates: bool = False) -> list[Prompt]:
    """Read a prompts file.

    `.txt` has a prompt per line. `.jsonl` has a JSON string or an object per line, and `.csv` has a header; the prompt is under
    "prompt", "text" or "context_string", whichever comes first in this order (in JSON it may be one level down, as in
    `{"prompt": {"text": ...}}`); what else a line says is kept beside it. Only JSON and CSV can hold an empty prompt or line
    breaks. Standard input has a prompt per line, or JSON if it begins with `{"`.

    Args:
        path: the file, or - for standard input.
        templates: whether a line of `.jsonl`, or a `.csv` file, may have "template" in place of a prompt. Lines of `.txt` are
            prompts in any case, so that braces in them are nothing but braces.

    Raises:
        UsageError: the file cannot be read, or a line holds no prompt or a malformed template; names `file:line`.
    """
    readers: dict[str, Callable[[Path, str, bool], Iterator[Prompt]]] = {".txt": _txt, ".jsonl": _jsonl, ".csv": _csv}
    piped = str(path) == "-"
    if not piped and path.suffix not in readers:
        raise UsageError(f"prompts file {str(path)!r} ends in {path.suffix!r}; expected {', '.join(readers)}, or - for stdin")
    try:
        data = sys.stdin.buffer.read() if piped else path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read prompts file {str(path)!r}: {error.strerror}") from error
    suffix, path = (".jsonl" if data.startswith(b'{"') else ".txt", Path("stdin")) if piped else (path.suffix, path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}:{line}: not UTF-8: {error.reason} {data[error.start : error.end]!r}") from error
    prompts = list(readers[suffix](path, text, templates))
    for prompt in prompts:
        _ = prompt.request  # a malformed template is an error here, not later
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


def _txt(path: Path, text: str, templates: bool) -> Iterator[Prompt]:
    return (Prompt(line, where) for line, where in _lines(path, text))


def _jsonl(path: Path, text: str, templates: bool) -> Iterator[Prompt]:
    for line, where in _lines(path, text):
        try:
            value = json.loads(line, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: not JSON: {error}") from error
        found = _chosen(value, where, templates, "key") if isinstance(value, dict) else None
        extra = {key: each for key, each in value.items() if key != found} if found else {}
        said = _text(value[TEMPLATE], where) if found == TEMPLATE else _pick(value, where)
        yield Prompt(said, where, found == TEMPLATE, extra)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is a number in Python only")


def _chosen(names: Collection[str], where: str, templates: bool, kind: str) -> str:
    """Choose which of the names holds the prompt."""
    known = (*KEYS, TEMPLATE) if templates else KEYS
    found = [name for name in known if name in names]
    if not found:
        raise UsageError(f"{where}: no {kind} {' or '.join(known)}; it has {', '.join(names) or 'none'}")
    if TEMPLATE in found and len(found) > 1:
        raise UsageError(f"{where}: a {kind} {found[0]} and a {kind} {TEMPLATE}; expected one of them")
    return found[0]


def _pick(value: Any, where: str) -> str:
    while isinstance(value, dict):
        value = value[_chosen(value, where, False, "key")]
    return _text(value, where)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{where}: the prompt is {type(value).__name__} {json.dumps(value)[:40]}; expected a string")
    return value


def _csv(path: Path, text: str, templates: bool) -> Iterator[Prompt]:
    rows = csv_rows(io.StringIO(text, newline=""), str(path))
    line, header = next(rows)
    name = _chosen(header, f"{path}:{line}", templates, "column")
    column = header.index(name)
    for line, row in rows:
        extra = {key: each for key, each in zip(header, row, strict=True) if key != name}
        yield Prompt(row[column], f"{path}:{line}", name == TEMPLATE, extra)


def csv_rows(lines: Iterable[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """Read CSV, the header first, each row as long as the header.

    Args:
        lines: of the file, with their line ends.
        name: the file's, for errors.

    Yields:
        The number of the line where a row begins, and its fields. Of no lines at all, a header without columns.

    Raises:
        UsageError: not CSV, a column that is there twice, or a row with more or fewer fields than the header; names `file:line`.
    """
    reader = csv.reader(lines, strict=True)
    try:
        header = next(reader, [])
        if twice := [column for column in header if header.count(column) > 1]:
            raise UsageError(f"{name}:1: two columns {twice[0]!r}; expected a name for each")
        yield 1, header
        before = reader.line_num
        for row in reader:
            line, before = before + 1, reader.line_num
            if len(row) != len(header):
                raise UsageError(f"{name}:{line}: {len(row)} fields; the header has {len(header)}")
            yield line, row
    except csv.Error as error:
        raise UsageError(f"{name}:{reader.line_num}: not CSV: {error}") from error
