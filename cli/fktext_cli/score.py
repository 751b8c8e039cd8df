"""`fktext score`: what rewards say of texts that exist."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Literal, NamedTuple

import typer

from fktext.errors import RewardError, UsageError
from fktext_cli import output
from fktext_cli.generate import create_rewards
from fktext_cli.listing import resolve_device

if TYPE_CHECKING:  # this imports torch
    from fktext.rewards import Text


class Line(NamedTuple):
    """A text to score, and the number of its line."""

    text: Text
    number: int


def score(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .txt or .jsonl file, or - for standard input.")],
    reward: Annotated[list[str], typer.Option("--reward", "-r", metavar="NAME[:option=value,...][=weight]", help="Repeatable.")],
    read: Annotated[
        Literal["text", "jsonl"] | None,
        typer.Option("--input", help="How FILE is written.", show_default="jsonl if it ends so, else text"),
    ] = None,
    form: Annotated[output.Format, typer.Option("--format", "-f", help="text is the value, a tab, and the text.")] = "jsonl",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")] = "auto",
    batch_size: Annotated[int, typer.Option(min=1, help="Texts scored at once.")] = 64,
    offline: Annotated[bool, typer.Option("--offline", envvar="HF_HUB_OFFLINE", help="Touch no network.")] = False,
) -> None:
    """Score texts that exist, to look at a reward before steering by it.

    Rows are written as batches are done; equal texts are scored once.

    Example: fktext score texts.txt --reward toxicity
    """
    stdout = sys.stdout
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that rewards use; they read it when they are imported
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # what rewards and plugins may print is no result
        source = sys.stdin.buffer if file == "-" else stack.enter_context(_open(file))
        from fktext.rewards import Scorer

        scorer = Scorer(create_rewards(reward, resolve_device(device), offline, batch_size))
        models = {term.name: term.provenance() for term in scorer.terms}
        name = "stdin" if file == "-" else file
        lines = _lines(source, name, jsonl=(read or ("jsonl" if file.endswith(".jsonl") else "text")) == "jsonl")
        done = 0
        while batch := list(islice(lines, batch_size)):
            values = scorer([line.text for line in batch], f" on {name}, lines {batch[0].number} to {batch[-1].number}")
            for line, row, total in zip(batch, values.tolist(), scorer.total(values).tolist(), strict=True):
                if not total < math.inf:
                    raise RewardError(f"{name}:{line.number}: the weighted sum is {total:g}: the values are too large to be added")
                stdout.write(_render(line, total, dict(zip(scorer.names, row, strict=True)), models, form))
            stdout.flush()
            done += len(batch)
        if not done:
            raise UsageError(f"{name} holds no text")
        print(f"{done} texts, {scorer.ledger.reward_calls:.0f} of them different", file=sys.stderr)


def _render(line: Line, total: float, values: dict[str, float], models: dict[str, dict[str, str]], form: output.Format) -> str:
    if form == "text":
        return f"{total:.6g}\t{' '.join(line.text.split())}\n"
    row = {
        "text": str(line.text),
        "prompt": line.text.prompt,
        "reward": output.number(total),
        "rewards": {name: output.number(value) for name, value in values.items()},
        "line": line.number,
        "reward_models": models,
    }
    return output.as_jsonl([row])


def _open(file: str) -> BinaryIO:
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise UsageError(f"cannot read {file!r}: {error.strerror}") from error


def _lines(source: BinaryIO, name: str, jsonl: bool) -> Iterator[Line]:
    """The texts, as they are asked for.

    Raises:
        UsageError: a line holds no text, or is not UTF-8; names `file:line`.
    """
    from fktext.rewards import Text

    for number, data in enumerate(source, 1):
        where = f"{name}:{number}"
        try:
            line = data.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise UsageError(f"{where}: not UTF-8: {error.reason}") from error
        if not line.strip():
            raise UsageError(f'{where}: a blank line; an empty text is written as {{"text": ""}} in a .jsonl file')
        text, prompt = _object(line, where) if jsonl else (line, "")
        try:
            (text + prompt).encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"{where}: {text!a} is not valid Unicode") from error
        yield Line(Text(text, prompt), number)


def _object(line: str, where: str) -> tuple[str, str]:
    """The text and the prompt of a JSON line: a string, or an object with "text" and perhaps "prompt"."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON: {error}") from error
    if isinstance(value, str):
        return value, ""
    if not isinstance(value, dict) or "text" not in value:
        raise UsageError(f'{where}: expected a string, or an object with "text" (and perhaps "prompt"), got {line[:40]!r}')
    text, prompt = value["text"], value.get("prompt", "")
    if not (isinstance(text, str) and isinstance(prompt, str)):
        raise UsageError(f'{where}: "text" and "prompt" must be strings')
    return text, prompt
