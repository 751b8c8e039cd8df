"""A run's folder, and what is in it.

    run.json                  what is run: suite, model, rewards and judges, with versions and digests. Written once; a run goes on
                              only where it is the same.
    rows-1-of-1.jsonl         a line per text, appended as they come; with several processes a file for each shard.
    sessions.jsonl            a line each time the run is started: machine, library versions, git commit.

Killed at any moment, a run leaves whole lines and at most one that is cut off.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

from fktext.errors import FktextError, UsageError, shorten
from fktext.files.writing import from_json, write_whole
from fktext_evals.running.places import Objects, add_session, is_remote, place, reaching
from fktext_evals.suites.suite import Suite, parse

if TYPE_CHECKING:
    from pandas import DataFrame

if sys.platform != "win32":
    import fcntl

_ROUNDING = 1e-3  # what rewards of one text may differ by when they were computed in other batches, or on another machine

Row = dict[str, Any]
Key = tuple[str, int, int, int, int]


class RunError(FktextError):
    """Says that a run's folder cannot be read or written."""


def key(row: Mapping[str, Any]) -> Key:
    """Say which of a suite's texts it is: method, particles, seed, prompt, sample."""
    return row["method"], row["particles"], row["seed"], row["prompt_index"], row["sample"]


@dataclass(frozen=True)
class Results:
    """The texts of a run and what was measured on them.

    Attributes:
        folder: where it is.
        suite: what was asked for.
        run: the content of run.json.
        rows: a mapping per text, in the suite's order; `to_pandas` makes a table of them. Its keys: method, particles,
            seed, prompt_index, prompt, sample, text (prompt included; None where the population died, all its texts having reward
            -inf: then nothing was returned and judged), continuation (what was judged after the prompt; or None), reward,
            judges (what each gave: a log-probability, or by its kind), judged_tokens (how many tokens each judge saw that can
            tell), log_z, unique_roots, weighed_at (reverse steps taken before each weighing), ess and roots (at each weighing:
            effective sample size before it, particles of the start with descendants after it), resampled (how many weighings
            were followed by it), denoiser_rows, reward_requests, reward_calls, seconds, lineage (see `fktext_evals.lineage`; of
            the first sample of each method and prompt, else None).
        notes: what a reader should know of the files, a line each that begins with "warning: " or "note: ".
    """

    folder: Path
    suite: Suite
    run: dict[str, Any]
    rows: list[Row]
    notes: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """Count the texts that are still to come."""
        return self.suite.texts - len(self.rows)

    @property
    def died(self) -> int:
        """Count the populations that ended without a text."""
        return sum(row["text"] is None for row in self.rows)

    def to_pandas(self) -> DataFrame:
        """Make a `pandas.DataFrame`, a line per population: columns `judge:NAME` with -inf for null, `tokens:NAME`, no lineage.

        A column `judge:NAME` has what the judge gave: of the kind "share" a log-probability in nats, of "perplexity" the mean
        log-likelihood per token in nats, of "mean" its value. The judges of a population that died are nan.
        """
        from pandas import DataFrame

        return DataFrame(
            {
                **{name: value for name, value in row.items() if name not in ("judges", "judged_tokens", "lineage")},
                **{f"judge:{judge.name}": math.nan for judge in self.suite.judges},
                **{f"judge:{name}": from_json(value) for name, value in row["judges"].items()},
                **{f"tokens:{name}": count for name, count in row["judged_tokens"].items()},
                "reward": from_json(row["reward"]),
            }
            for row in self.rows
        )

    def of(self, method: tuple[str, int]) -> list[Row]:
        """Return the texts of one method at one number of particles."""
        return [row for row in self.populations(method) if row["text"] is not None]

    def populations(self, method: tuple[str, int]) -> list[Row]:
        """Return the rows of one method at one number of particles, also of populations that died."""
        return [row for row in self.rows if (row["method"], row["particles"]) == method]


def read(folder: str | os.PathLike[str]) -> Results:
    """Read a run, finished or not, all shards together, from a folder or an address of fsspec.

    A last line that is cut off, because the writer was killed or is still at it, is left out with a warning. A text that several
    files hold, because shards of different numbers overlapped, is read once, with a note. Both are in `Results.notes`.

    Raises:
        UsageError: there is no run in the folder.
        RunError: its files are damaged, or hold two texts of which there can be one only.
    """
    with reaching(folder):
        return _read(place(folder))


def _read(folder: Path) -> Results:
    """Read a run; see `read`."""
    try:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        suite = parse(run["suite"], str(folder / "run.json"))
    except FileNotFoundError as error:
        raise UsageError(f"{str(folder)!r} holds no run: there is no run.json in it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{folder / 'run.json'} is damaged: {error}") from error
    except OSError as error:
        raise RunError(f"cannot read {str(error.filename)!r}: {error.strerror}") from error
    order = {method.key: place for place, method in enumerate(suite.methods)}
    judges = [judge.name for judge in suite.judges]
    found: dict[Key, tuple[Row, str]] = {}
    again, notes = 0, []
    for path in sorted(folder.glob("rows-*.jsonl"), key=str):
        rows, good = _whole_lines(path)
        if good < path.stat().st_size:
            notes.append(f"warning: the last line of {path} is cut off; its text is left out")
        for number, row in enumerate(rows, 1):
            where = f"{path}:{number}"
            try:
                who = key(row)
                known = who[:2] in order and row["seed"] in suite.seeds and suite.prompts[row["prompt_index"]] == row["prompt"]
            except (KeyError, TypeError, IndexError) as error:
                raise RunError(f"{where} is not a row of a run: {error!r}") from error
            if not known:
                raise RunError(f"{where} is of a method, seed or prompt that the suite in run.json does not have")
            if fault := _fault(row, judges):
                raise RunError(f"{where} is not a row of a run: {fault}")
            first, place = found.setdefault(who, (row, where))
            again += first is not row
            if first is not row and (different := _differ(first, row)):
                raise RunError(f"{place} and {where} hold the same text of the suite, but {different}; delete one of the two lines")
    if again:
        some = f"1 text in {folder} is" if again == 1 else f"{again} texts in {folder} are"
        notes.append(f"note: {some} there twice, from shards that overlapped; {'it' if again == 1 else 'each'} counts once")
    rows = [row for row, _ in found.values()]
    rows.sort(key=lambda row: (order[key(row)[:2]], row["prompt_index"], suite.seeds.index(row["seed"]), row["sample"]))
    return Results(folder, suite, run, rows, tuple(notes))


_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("text", "continuation"), (str, NoneType)),
    "reward": (int, float, NoneType),
    **dict.fromkeys(("judges", "judged_tokens"), (dict,)),
    **dict.fromkeys(("unique_roots", "denoiser_rows", "reward_requests", "reward_calls", "seconds"), (int, float)),
}


def _fault(row: Row, judges: Sequence[str]) -> str:
    """Say what is wrong with a row that says which text it is of, "" if nothing."""
    for name, kinds in _KINDS.items():
        if name not in row:
            return f"it has no {name!r}"
        if not isinstance(row[name], kinds):
            return f"its {name!r} is {_short(row[name])}"
    for judge in judges if row["text"] is not None else ():
        if not isinstance(row["judges"].get(judge, ""), (int, float, NoneType)):
            return f"its 'judges' have no number of {judge!r}"
    lengths = {name: len(row[name]) for name in ("weighed_at", "ess", "roots") if isinstance(row.get(name), list)}
    return "" if len(set(lengths.values())) <= 1 else f"the lengths of its lists differ: {lengths}"


def _differ(one: Row, other: Row) -> str:
    """Say in what two rows of one text differ more than two machines do, "" if they are the same."""
    for name in ("text", "continuation"):
        if one[name] != other[name]:
            return f"its {name!r} is {_short(one[name])} in one and {_short(other[name])} in the other"
    numbers = [{"reward": row["reward"], **row["judges"]} for row in (one, other)]
    for name, value in numbers[0].items():
        if not math.isclose(from_json(value), from_json(numbers[1].get(name)), rel_tol=_ROUNDING, abs_tol=_ROUNDING):
            return f"{name!r} is {value} in one and {numbers[1].get(name)} in the other"
    return ""


def create(folder: Path, run: Mapping[str, Any]) -> None:
    """Make a run's folder, or check that what is there is the same run, if of fewer prompts: then it has more from now on.

    Raises:
        UsageError: another run is there; says what differs.
        RunError: it cannot be written.
    """
    run = json.loads(json.dumps(run))
    path = folder / "run.json"
    try:
        with reaching(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _write(path, json.dumps(run, indent=1).encode() + b"\n", replace=False)
            theirs = json.loads(path.read_text(encoding="utf-8"))
            if theirs != run and _begins(theirs, run):
                _write(path, json.dumps(run, indent=1).encode() + b"\n")
                return
    except ValueError as error:
        raise RunError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise RunError(f"cannot write the run to {str(folder)!r}: {error.strerror}") from error
    _refuse(folder, theirs, run)


def _write(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file whole; an object at an address is never seen in part."""
    if is_remote(path):
        path.write_bytes(data)
    else:
        write_whole(path, data, replace=replace)


def same(folder: Path, run: Mapping[str, Any]) -> None:
    """Check that a folder holds this run, if of fewer prompts.

    Raises:
        UsageError: another one is there; says what differs.
    """
    run = json.loads(json.dumps(run))
    theirs = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if not _begins(theirs, run):
        _refuse(folder, theirs, run)


def _refuse(folder: Path, theirs: Any, run: Mapping[str, Any]) -> None:
    """Raise a UsageError if two runs differ."""
    if theirs != run and _begins(run, theirs):
        there, asked = (len(each["suite"]["prompts"]) for each in (theirs, run))
        raise UsageError(
            f"{str(folder)!r} holds this run of {there} prompts, asked for are the first {asked}: "
            "prompts can be added, not taken away; give another folder with --out"
        )
    if different := _difference(theirs, run, ""):
        raise UsageError(f"{str(folder)!r} holds another run: {different}; give another folder with --out, or delete that one")


def _begins(part: Any, run: Mapping[str, Any]) -> bool:
    """Say whether a run is the other one, of its first prompts."""
    try:
        prompts = part["suite"]["prompts"]
        same = {**run, "suite": {**run["suite"], "prompts": prompts}} == part
        return bool(same and run["suite"]["prompts"][: len(prompts)] == prompts)
    except (KeyError, TypeError):
        return False


def _difference(theirs: Any, ours: Any, where: str) -> str:
    """Say the first thing in which two runs differ, "" if none."""
    if theirs == ours:
        return ""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in [*ours, *(name for name in theirs if name not in ours)]:
            if found := _difference(theirs.get(name), ours.get(name), f"{where}.{name}" if where else name):
                return found
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        for number, (one, other) in enumerate(zip(theirs, ours, strict=True), 1):
            if found := _difference(one, other, f"{where}[{number}]"):
                return found
    return f"its {where} is {_short(theirs)}, asked for is {_short(ours)}"


def _short(value: Any) -> str:
    return shorten(json.dumps(value), 80)


@contextlib.contextmanager
def writing(path: Path, consolation: str = "") -> Iterator[None]:
    """Turn an error of the file system into a RunError that names the file."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {str(path)!r}: {error.strerror}{consolation}") from error


def append_session(folder: Path, session: Mapping[str, Any]) -> None:
    """Note who runs it this time.

    Raises:
        RunError: it cannot be written; nothing of it stays behind.
    """
    if is_remote(folder):
        add_session(folder, session)
        return
    path = folder / "sessions.jsonl"
    with writing(path), path.open("ab", buffering=0) as file:
        _append(file, json.dumps(session).encode() + b"\n")


def _append(file: FileIO, data: bytes) -> None:
    """Write all of it or, where that fails, nothing: one write may take a part only of what it is given."""
    good, rest = os.fstat(file.fileno()).st_size, memoryview(data)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError:
        with contextlib.suppress(OSError):
            file.truncate(good)
        raise


def rows_of(folder: Path, part: tuple[int, int]) -> RowFile | Objects:
    """Open what a process writes the rows of its part to.

    Raises:
        RunError: it cannot be opened, or another process has it.
    """
    path = folder / f"rows-{part[0]}-of-{part[1]}.jsonl"
    return Objects(path) if is_remote(folder) else RowFile(path)


class RowFile:
    """The file a process appends its rows to; it alone, and whole lines only.

    Attributes:
        path: where it is.
        notes: as those of `Results`: whether its last line was cut off, and is gone now.

    Raises:
        RunError: it cannot be opened, or another process has it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._file = path.open("ab", buffering=0)
        if sys.platform != "win32":
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._file.close()
                raise RunError(f"another process is writing {str(path)!r}") from error
            except OSError:
                pass  # a file system without locks; two processes would show as texts that are there twice
        _, good = _whole_lines(path)
        self.notes: tuple[str, ...] = ()
        if good < path.stat().st_size:
            self.notes = (f"warning: the last line of {path} was cut off; its text is made again",)
            self._file.truncate(good)

    def append(self, rows: Iterable[Row]) -> None:
        """Write rows and hand them to the operating system; of a write that fails nothing stays behind.

        Raises:
            RunError: the disk is full, say.
        """
        with writing(self.path, "; what is in it stays, and the same command resumes it"):
            _append(self._file, b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _whole_lines(path: Path) -> tuple[list[Row], int]:
    """Read the rows of a file's whole lines, and count the bytes they take."""
    rows, good = [], 0
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"cannot read {str(path)!r}: {error.strerror}") from error
    for number, line in enumerate(data.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise RunError(f"{path}:{number} is damaged: {error}") from error
        good += len(line)
    return rows, good
