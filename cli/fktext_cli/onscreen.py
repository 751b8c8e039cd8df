"""Draw a report of evaluations on a terminal.

Where a table is too wide, intervals go below their means, and where that is not enough, columns into a further table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from fktext_cli.streams import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as Grid

    from fktext_evals.reporting.blocks import Report, Table

_GAP = 3  # between columns
Column = Sequence[str]  # its header, then its cells


def show(report: Report, console: Console) -> None:
    """Print a report: title and verdict, what was run, its tables, what the numbers mean, and texts."""
    from rich.text import Text

    def say(lines: Iterable[str], style: str = "") -> None:
        for line in lines:
            console.print(Text(visible(line).replace("**", ""), style))

    say([report.title])
    say(["", *([report.verdict, ""] if report.verdict else [])], "bold")
    say(report.about, "dim")
    for table in report.tables:
        say(["", table.caption])
        for part in _parts(table, console.width):
            console.print(_grid(part, console.width))
    say([report.notes], "dim")
    say(report.texts)


def _parts(table: Table, width: int) -> Iterator[list[Column]]:
    """Yield the columns of a table, in parts that fit; each begins with the columns that tell the rows apart."""
    rows = [[visible(cell) for cell in row] for row in (table.header, *table.rows)]
    columns: list[Column] = list(zip(*rows, strict=True))
    if _width(columns) > width:
        columns = [(name, *(cell.replace(" [", "\n[") for cell in cells)) for name, *cells in columns]
    counts = range(1, len(columns) + 1)
    keys = next((count for count in counts if len({tuple(row[:count]) for row in rows}) == len(rows)), len(columns))
    part = columns[:keys]
    for column in columns[keys:]:
        if len(part) > keys and _width([*part, column]) > width:
            yield part
            part = columns[:keys]
        part.append(column)
    yield part


def _room(column: Column) -> int:
    """Return what room a column needs: for the longest line of its cells, and the longest word of its header."""
    name, *cells = column
    return max(map(len, [*name.split(), *(line for cell in cells for line in cell.split("\n"))]))


def _width(columns: Sequence[Column]) -> int:
    return sum(map(_room, columns)) + _GAP * len(columns)


def _grid(columns: Sequence[Column], width: int) -> Grid:
    """Make a table of rich, columns of numbers to the right, headers wrapped to what room there is."""
    from rich import box
    from rich.table import Table as Grid
    from rich.text import Text

    spare = max(0, width - _width(columns)) // len(columns)
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, *cells in columns:
        words = any(cell[:1].isalpha() for cell in cells)
        header = "\n".join(textwrap.wrap(name, _room([name, *cells]) + spare))
        grid.add_column(Text(header), justify="left" if words else "right", overflow="fold")
    for row in zip(*(cells for _, *cells in columns), strict=True):
        grid.add_row(*map(Text, row))
    return grid
