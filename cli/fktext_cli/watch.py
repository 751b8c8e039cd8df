"""`fktext watch`: replay the particles of a run from its log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, TextIO

import typer

from fktext import trace
from fktext.errors import UsageError
from fktext.trace import End, Record, Run, Weighing
from fktext_cli import live, output, tracing
from fktext_cli.streams import visible

PACE = 0.4  # seconds for a weighing
LISTEN = 0.1  # seconds until a file is looked at again

app = typer.Typer(add_completion=False)


@app.command()
def watch(
    log: Annotated[Path, typer.Argument(metavar="RUN.jsonl", help="What --trace RUN.jsonl has written, or still writes.")],
    speed: Annotated[
        float, typer.Option(min=0.01, max=1000, help="How many times as fast as two weighings and a half a second.")
    ] = 1.0,
    follow: Annotated[bool, typer.Option("--follow", help="Wait for what is still being written.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the page of --trace FILE instead.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --html file.")] = False,
) -> None:
    """Watch the particles of a run again, from the log that --trace RUN.jsonl wrote.

    A terminal shows them as --watch did; the texts that were returned are printed.

    Example: fktext watch run.jsonl --speed 2
    """
    if html is not None:
        output.check_file("--html", html, "" if overwrite else "--overwrite replaces it")
        records = list(trace.read(log))
        if not any(isinstance(record, End) for record in records):
            raise UsageError(f"no population of {str(log)!r} has ended, so there is nothing to draw")
        tracing.write(html, records)
        return
    if not follow:
        _play(trace.read(log), speed)
        return
    try:
        with log.open(encoding="utf-8") as lines:
            _play(trace.parse(_growing(lines), str(log)), speed)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the log {str(log)!r}: {getattr(error, 'strerror', None) or error}") from error


def _play(records: Iterator[Record], speed: float) -> None:
    """Show the events of a log one after the other, and print what was returned; ends with the last population."""
    left = 0
    with live.View("waiting", calm=0) as view:
        for record in records:
            if isinstance(record, Run):
                left = view.scene.total = record.populations
                continue
            view.see([record])
            if isinstance(record, End):
                with view.away():
                    if record.chosen is not None:  # else it is dead
                        print(visible(record.particles[record.chosen].text), flush=True)
                left -= 1
                if not left:
                    return
            elif isinstance(record, Weighing) and view.shows(record):
                view.rest(PACE / speed)


def _growing(lines: TextIO) -> Iterator[str]:
    """Yield the whole lines of a file, and wait for more at its end."""
    part = ""
    while True:
        part += lines.readline()
        if part.endswith("\n"):
            yield part
            part = ""
        else:
            time.sleep(LISTEN)
