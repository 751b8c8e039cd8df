"""`fktext score`: score texts that exist."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NamedTuple

import typer

from fktext.errors import RewardError, UsageError, shorten
from fktext.files.writing import to_json
from fktext.texts.prompts import csv_rows
from fktext_cli import completion, output
from fktext_cli.common import create_rewards
from fktext_cli.options import MOST_BATCH, Where, run_option, unfolded
from fktext_cli.progress import stage

if TYPE_CHECKING:  # this imports torch
    from fktext.rewards import Scorer
    from fktext.text import Text


Input = Literal["text", "jsonl", "csv"]


class Line(NamedTuple):
    """A text to score, and the number of its line."""

    text: Text
    number: int


app = typer.Typer(add_completion=False)


@app.command()
@unfolded()
def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .txt, .jsonl or .csv file, or - for standard input.")],
    reward: Annotated[
        list[str],
        typer.Option(
            "--reward",
            "-r",
            metavar="REWARD",
            help="What to score by: NAME, NAME:option=value or NAME=weight; repeatable.",
            autocompletion=completion.rewards,
        ),
    ],
    read: Annotated[
        Input | None, typer.Option("--input", help="How FILE is written.", show_default="jsonl or csv if it ends so, else text")
    ] = None,
    form: Annotated[output.Format, typer.Option("--format", "-f", help="text prints the value, a tab, and the text.")] = "jsonl",
    *,
    where: Where,
    batch_size: Annotated[int, run_option(min=1, max=MOST_BATCH, help="Texts scored at once.")] = 64,
) -> None:
    """Score texts that exist, to look at a reward before steering by it.

    Rows are written as batches are done; equal texts are scored once. FILE may be what `fktext generate` wrote as jsonl.

    Example: fktext score texts.txt --reward toxicity
    """
    device, stdout = where.ready(), sys.stdout
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # what rewards and plugins may print is no result
        source = sys.stdin.buffer if file == "-" else stack.enter_context(_open(file))
        with stage("loading rewards"):
            from fktext.rewards import Scorer

            scorer = Scorer(create_rewards(reward, device, where.offline, batch_size))
        models = {term.name: term.provenance() for term in scorer.terms}
        name = "stdin" if file == "-" else file
        lines = _lines(source, name, read or _input(file))
        write = output.Csv() if form == "csv" else output.as_jsonl
        done = missing = 0
        while batch := list(islice(lines, batch_size)):
            there = [line for line in batch if line is not None]
            done, missing = done + len(there), missing + len(batch) - len(there)
            for line, values, total in _scored(scorer, there, name):
                stdout.write(_text(line, total) if form == "text" else write([_row(line, total, values, models)]))
            stdout.flush()
        if missing:
            print(f"{missing} row{'s' * (missing != 1)} of {name} without a text: skipped", file=sys.stderr)
        if not done:
            raise UsageError(f"{name} holds no text")
        print(f"{done} texts, {scorer.ledger.reward_calls:.0f} of them different", file=sys.stderr)


def _scored(scorer: Scorer, lines: Sequence[Line], name: str) -> Iterator[tuple[Line, dict[str, float], float]]:
    """Score lines: yield each with the value of each reward and their weighted sum."""
    if not lines:
        return
    values = scorer([line.text for line in lines], f" on {name}, lines {lines[0].number} to {lines[-1].number}")
    for line, row, total in zip(lines, values.tolist(), scorer.total(values).tolist(), strict=True):
        if not total < math.inf:
            raise RewardError(f"{name}:{line.number}: the weighted sum is {total:g}: the values are too large to be added")
        yield line, dict(zip(scorer.names, row, strict=True)), total


def _text(line: Line, total: float) -> str:
    return f"{total:.6g}\t{' '.join(line.text.split())}\n"


def _row(line: Line, total: float, values: dict[str, float], models: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {
        "text": str(line.text),
        "prompt": line.text.prompt,
        "reward": to_json(total),
        "rewards": {name: to_json(value) for name, value in values.items()},
        "line": line.number,
        "reward_models": models,
    }


def _open(file: str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {file!r}: {error.strerror}") from error


def _input(file: str) -> Input:
    return "jsonl" if file.endswith(".jsonl") else "csv" if file.endswith(".csv") else "text"


def _lines(source: BinaryIO, name: str, form: Input) -> Iterator[Line | None]:
    """Read the texts as they are asked for; None for a row that says it has none.

    Raises:
        UsageError: a line holds no text, or is not UTF-8, or its prompt is not what its text begins with; names `file:line`.
    """
    from fktext.text import Text

    readers: dict[Input, Callable[[Iterator[str], str], Iterator[tuple[int, Any]]]] = {"text": _plain, "jsonl": _json, "csv": _csv}
    for number, value in readers[form](_decoded(source, name), name):
        where = f"{name}:{number}"
        text, prompt = _parts(value, where)
        if text is None:
            yield None
            continue
        try:
            (text + prompt).encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{where}: {text!a} is not valid Unicode") from error
        if not text.startswith(prompt):
            raise UsageError(
                f"{where}: the prompt {shorten(prompt)!r} is not what the text {shorten(text)!r} begins with; give it as the text "
                "spells it, under spelled_prompt, as `fktext generate` does, or give none"
            )
        yield Line(Text(text, prompt), number)


def _decoded(source: BinaryIO, name: str) -> Iterator[str]:
    for number, data in enumerate(source, 1):
        try:
            yield data.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"{name}:{number}: not UTF-8: {error.reason}") from error


def _plain(lines: Iterator[str], name: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise UsageError(f'{name}:{number}: a blank line; an empty text is written as {{"text": ""}} in a .jsonl file')
        yield number, line.rstrip("\r\n")


def _json(lines: Iterator[str], name: str) -> Iterator[tuple[int, Any]]:
    for number, line in _plain(lines, name):
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{name}:{number}: not JSON: {error}") from error


def _csv(lines: Iterator[str], name: str) -> Iterator[tuple[int, dict[str, str]]]:
    rows = csv_rows(lines, name)
    number, header = next(rows)
    if "text" not in header:
        raise UsageError(f"{name}:{number}: no column text; it has {', '.join(header) or 'none'}")
    for number, row in rows:
        yield number, dict(zip(header, row, strict=True))


def _parts(value: Any, where: str) -> tuple[str | None, str]:
    """Return the text, None where a row says that it has none, and the prompt it begins with."""
    if isinstance(value, str):
        return value, ""
    if not isinstance(value, dict) or "text" not in value:
        expected = 'expected a string, or an object with "text" (and perhaps "prompt" or "spelled_prompt")'
        raise UsageError(f"{where}: {expected}, got {json.dumps(value)[:40]}")
    text, prompt = value["text"], value.get("spelled_prompt", value.get("prompt", ""))
    if text is None:
        return None, ""
    if not (isinstance(text, str) and isinstance(prompt, str)):
        raise UsageError(f'{where}: "text", "prompt" and "spelled_prompt" must be strings')
    return text, prompt
