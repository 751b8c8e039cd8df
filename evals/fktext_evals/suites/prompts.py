"""The prompts that a suite names: a list, a file, or a data set."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fktext.errors import UsageError, first_line, shorten
from fktext.texts.prompts import KEYS, read_prompts
from fktext_evals.suites.tables import Table, checked

_READERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}


class _DataSet(Table):
    """A table for Hugging Face `datasets`."""

    file: str | None = None
    hub: str | None = None
    config: str | None = None
    revision: str | None = None
    split: str = "train"
    column: str | None = None
    shuffle: int | None = None
    first: int | None = None


def prompts_of(given: Sequence[str] | str | Mapping[str, Any], where: str, folder: Path = Path()) -> list[str]:
    """Read the prompts that a suite's key `prompts` names.

    Args:
        given: a list of texts; the name of a `.txt`, `.jsonl` or `.csv` (see `fktext.texts.prompts`); or a table for Hugging Face
            `datasets`: `file` (.jsonl, .json, .csv, .parquet, or any other as a text per line) or `hub` (an id, with `config` and
            `revision` where needed), `split` (default "train"), `column` (default "prompt", "text" or "context_string", whichever
            comes first; "a.b" is b inside a), and after a `shuffle` with that seed the `first` so many.
        where: for messages.
        folder: where files are sought.

    Raises:
        UsageError: no such file, data set, split or column, or a value that is no text.
    """
    if isinstance(given, str):
        try:
            return [prompt.text for prompt in read_prompts(folder / given)]
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
    if not isinstance(given, Mapping):
        return list(given)
    return _column(checked(_DataSet, given, f"{where} prompts"), f"{where} prompts", folder)


def _column(asked: _DataSet, where: str, folder: Path) -> list[str]:
    """Return the texts of a column of a data set."""
    if (asked.file is None) == (asked.hub is None):
        raise UsageError(f"{where}: expected either file or hub")
    name, rows = asked.hub or str(folder / str(asked.file)), _rows(asked, where, folder)
    if asked.shuffle is not None:
        rows = rows.shuffle(seed=asked.shuffle)
    if asked.first is not None:
        if not 1 <= asked.first <= len(rows):
            raise UsageError(f"{where}: first is {asked.first}; {name} has {len(rows)} rows")
        rows = rows.select(range(asked.first))
    column = asked.column or next((key for key in KEYS if key in rows.column_names), " or ".join(KEYS))
    top, *below = column.split(".")
    if top not in rows.column_names:
        raise UsageError(f"{where}: {name} has no column {column}; it has {', '.join(rows.column_names)}")
    prompts = list(rows[top])
    for key in below:
        prompts = [value.get(key) if isinstance(value, dict) else None for value in prompts]
    if wrong := [number for number, prompt in enumerate(prompts) if not isinstance(prompt, str)]:
        found = shorten(repr(prompts[wrong[0]]), 60)
        raise UsageError(f"{where}: {column} of row {wrong[0]} of {name} is {found}; expected a text")
    return prompts


def _rows(asked: _DataSet, where: str, folder: Path) -> Any:
    """Load the rows of one split by Hugging Face `datasets`."""
    import datasets

    bars = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if asked.hub is not None:
            return datasets.load_dataset(asked.hub, asked.config, split=asked.split, revision=asked.revision)
        path = folder / str(asked.file)
        if not path.is_file():
            raise UsageError(f"{where}: there is no file {str(path)!r}")
        kind = _READERS.get(path.suffix, "text")
        with tempfile.TemporaryDirectory() as cache:  # a prompts file is small: nothing of it stays in the user's cache
            return datasets.load_dataset(kind, data_files=str(path), split=asked.split, cache_dir=cache, keep_in_memory=True)
    except UsageError:
        raise
    except Exception as error:  # of the hub client, of pyarrow, of datasets itself
        reason = f"{type(error).__name__}: {shorten(first_line(error), 200)}"
        raise UsageError(f"{where}: cannot read {asked.hub or asked.file!r}: {reason}") from error
    finally:
        if bars:
            datasets.enable_progress_bars()
