"""Write results: rows of JSON or plain texts, to stdout or a file, in whole lines only."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from fktext.errors import FktextError, UsageError
from fktext.files.writing import to_json, write_whole
from fktext.texts.templates import Template
from fktext_cli.streams import silence

if TYPE_CHECKING:  # this imports torch
    from fktext.population import Population

Return = Literal["best", "draw", "all"]
HARD = ("regex", "json", "keywords", "length")  # rewards that are constraints while their penalty is infinite
Format = Literal["text", "jsonl", "csv"]


class OutputError(FktextError):
    """Results cannot be written."""


def chosen(population: Population, which: Return) -> list[int]:
    """Return the particles to print; none of a dead population."""
    if population.dead:
        return []
    if which == "all":
        return list(range(len(population.samples)))
    return [population.best() if which == "best" else population.draw()]


def rows(population: Population, which: Return, run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Make the JSON rows of a population.

    Args:
        population: from `fktext.texts.generate`.
        which: the particles to print.
        run: what is the same in all rows: seed, model and settings.

    Returns:
        A mapping per particle. Log-weights and rewards are nats; JSON has no infinities, so -inf, the only one there can be, is
        null. Of a dead population there is one mapping, in which everything that a particle would say is null.
    """

    return [_row(population, index, run) for index in ([None] if population.dead else chosen(population, which))]


def _row(population: Population, index: int | None, run: Mapping[str, Any]) -> dict[str, Any]:
    from fktext.text import Text

    dead, at = index is None, index or 0
    said = {}
    if isinstance(text := population.samples[at], Text):
        said = {
            "template": population.template,
            "text": None if dead else str(text),
            "spelled_prompt": text.prompt,
            "continuation": None if dead else text.continuation,
        }
    values = zip(population.names, population.values[at].tolist(), strict=True)
    return {
        "prompt": population.prompt,
        **said,
        "reward": None if dead else to_json(population.rewards[at].item()),
        "rewards": {name: None if dead else to_json(value) for name, value in values},
        "log_weight": None if dead else to_json(population.log_w[at].item()),
        "log_z": to_json(population.log_z),
        "prompt_index": population.prompt_index,
        "sample": population.sample_index,
        "particle": index,
        "ancestor": None if dead else int(population.roots[at]),
        **run,
    }


def the_dead(number: int, of: int, noun: str = "text", hard: Sequence[str] = ()) -> FktextError:
    """Make the error that ends a run with dead populations; all others have been written.

    Args:
        number, of: how many, of how many.
        noun: what a population is made of.
        hard: the rewards that were -inf, as they were written.
    """
    softer = next(filter(None, map(_softer, hard)), "")
    return FktextError(
        f"{number} of {of} populations {'is' if number == 1 else 'are'} dead: every {noun} has a reward of -inf. "
        f"Use more particles, or {f'a finite penalty: {softer}' if softer else f'a reward that is finite for more {noun}s'}"
    )


def _softer(spec: str) -> str:
    """Return a built-in hard constraint with a finite penalty, as it is written; "" for another reward."""
    from fktext.plugins.specs import parse_spec

    try:
        found = parse_spec(spec)
    except UsageError:  # a name that Python gave
        return ""
    if found.name.removeprefix("fktext:") not in HARD:
        return ""
    return str(replace(found, options=(*(pair for pair in found.options if pair[0] != "penalty"), ("penalty", "2"))))


def as_jsonl(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write each row as a line of ASCII JSON."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


@dataclass
class Csv:
    """Write rows as CSV, the header before the first of them: a column for each value, without what is the same in all rows.

    A value inside another has both names, `rewards.cola`. What JSON has as null is empty.

    Attributes:
        extra: the names of what prompts say beside themselves, which not all of them need to say.
    """

    extra: Sequence[str] = ()
    _header: list[str] = field(default_factory=list, init=False)

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> str:
        """Return the lines of rows."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        for row in rows:
            flat = {name: value for name, value in row.items() if not isinstance(value, Mapping)}
            flat |= {f"rewards.{name}": value for name, value in row["rewards"].items()}
            for name in self.extra:
                value = row.get("extra", {}).get(name)
                flat[f"extra.{name}"] = json.dumps(value) if isinstance(value, dict | list) else value
            if not self._header:
                self._header = list(flat)
                writer.writerow(self._header)
            writer.writerow(flat[name] for name in self._header)
        return table.getvalue()


def as_text(texts: Sequence[str]) -> str:
    """Write each text as a line; one with line breaks of its own is followed by a blank line."""
    return "".join(f"{text}\n\n" if "\n" in text else f"{text}\n" for text in texts)


@dataclass
class Sink:
    """Write to stdout, or to a file that holds whole lines at any moment, whatever stops the program.

    Attributes:
        path: the file, None for stdout.
        stdout: where to write when there is no file.
        overwrite: replace what a file holds.
        keep: bytes of an existing file to keep and to write after; None when there is nothing to go on from.
    """

    path: Path | None
    stdout: TextIO
    overwrite: bool = False
    keep: int | None = None
    _file: FileIO | None = field(default=None, init=False)
    _new: bool = field(default=False, init=False)

    def __enter__(self) -> Sink:
        if self.path is None:
            return self
        self._new = not self.path.exists()
        try:
            # "a" is for devices: a file that exists has been refused (see `check_file`)
            mode = "r+" if self.keep is not None else "w" if self.overwrite else "x" if self._new else "a"
            self._file = FileIO(self.path, mode)
            if self.keep is not None:
                self._file.truncate(self.keep)
                self._file.seek(self.keep)
        except OSError as error:
            raise OutputError(f"cannot write {str(self.path)!r}: {error.strerror}") from error
        return self

    def write(self, text: str) -> None:
        """Write and flush whole lines; a write that is cut short leaves none of them behind in a file.

        Raises:
            OutputError: it cannot be written, as on a full disk.
            BrokenPipeError: nobody reads stdout any more.
        """
        data = memoryview(text.encode("utf-8", "surrogatepass"))
        if self._file is None:
            try:
                self.stdout.buffer.write(data)
                self.stdout.buffer.flush()
            except OSError as error:
                silence(self.stdout)
                if isinstance(error, BrokenPipeError):
                    raise
                raise OutputError(f"cannot write to standard output: {error.strerror}") from error
            return
        good = self._file.tell() if self._file.seekable() else None
        try:
            while data:
                data = data[self._file.write(data) :]
        except BaseException as error:
            if good is not None:
                with contextlib.suppress(OSError):  # not every device can be cut
                    self._file.truncate(good)
            if isinstance(error, OSError):
                raise OutputError(f"cannot write {str(self.path)!r}: {error.strerror}; what is in it are whole lines") from error
            raise
        self._new = False

    def __exit__(self, *_: object) -> None:
        if self.path is None or self._file is None:
            return
        self._file.close()
        if self._new:  # nothing was written: leave no empty file in the way of the next run
            self.path.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        OutputError: it cannot be written, as on a full disk.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise OutputError(f"cannot write {str(path)!r}: {error.strerror}") from error


def check_file(option: str, path: Path, replacing: str = "") -> None:
    """Refuse a file that cannot or should not be written, before anything is computed.

    Args:
        option: the option that named it.
        path: the file.
        replacing: what the error says if the file exists; "" if it may.
    """
    named = f"{option} {str(path)!r}"
    if path.is_dir():
        raise UsageError(f"{named} is a folder")
    if not path.parent.is_dir():
        raise UsageError(f"{named}: there is no folder {str(path.parent)!r}")
    if path.is_file() and replacing:
        raise UsageError(f"{named} exists; {replacing}")


def resume_point(
    path: Path, run: Mapping[str, Any], prompts: Sequence[str | Template], size: int
) -> tuple[set[tuple[int, int]], int]:
    """Find what an earlier run of the same request has written.

    Args:
        path: its JSONL file.
        run: see `rows`; every row must agree.
        prompts: all prompts and templates; row i's must be prompts[prompt_index].
        size: rows per population.

    Returns:
        (prompt index, sample index) of the whole populations in the file, and how many bytes they take. What follows, a line
        or a population that was cut short, is to be written again.

    Raises:
        UsageError: the file is not such output, or of another request; says what differs.
    """
    found: set[tuple[int, int]] = set()
    good = at = members = 0
    last = None
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            row = json.loads(line)
            who = (row["prompt_index"], row["sample"])
            prompt, theirs = (row["prompt"], row.get("template")), {key: row[key] for key in run}
            dead = row["text"] is None
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"cannot resume: {path}:{number} is no row of `fktext generate`: {error!r}") from error
        if who in found or (who != last and members not in (0, size)):
            raise UsageError(f"cannot resume: {path}:{number} is out of order, or the population before it has not {size} rows")
        if theirs != run:
            raise UsageError(f"cannot resume: {path}:{number} has {_difference(theirs, dict(run))}")
        if not (0 <= who[0] < len(prompts) and _as_in_rows(prompts[who[0]]) == prompt):
            named = f"prompt {prompt[0]!r}" if prompt[1] is None else f"template {prompt[1]!r}"
            raise UsageError(f"cannot resume: {path}:{number} has {named} in place {who[0]}, and this run has not")
        members = size if dead else members + 1 if who == last else 1  # a dead population has one row
        last = who
        at += len(line)
        if members == size:
            found.add(who)
            good = at
    return found, good


def _as_in_rows(prompt: str | Template) -> tuple[str, str | None]:
    return ("", prompt.source) if isinstance(prompt, Template) else (prompt, None)


def _difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    for key in ours:
        if theirs.get(key) != ours[key]:
            if isinstance(ours[key], dict) and isinstance(theirs.get(key), dict) and set(ours[key]) == set(theirs[key]):
                return _difference(theirs[key], ours[key])
            return f"{key} {theirs.get(key)!r}, and this run has {ours[key]!r}"
    raise AssertionError("equal")
