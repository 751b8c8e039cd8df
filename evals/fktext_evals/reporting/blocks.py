"""What a report is made of, and how it is written as Markdown and as LaTeX; the command line draws it on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\u2212": "$-$",
}


@dataclass(frozen=True)
class Table:
    """A table: what it shows, a header, and as many cells in each row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Report:
    """A report.

    Attributes:
        title: its heading.
        verdict: the sentence on top, "" where there is none.
        about: what was run, a line each.
        tables: those that have rows.
        notes: what the numbers mean.
        texts: what was generated, as lines of Markdown.
    """

    title: str
    verdict: str
    about: Sequence[str]
    tables: Sequence[Table]
    notes: str
    texts: Sequence[str] = ()


def markdown(report: Report) -> str:
    """Write a report as Markdown."""
    lines = [f"# {report.title}", ""]
    if report.verdict:
        lines += [f"**{report.verdict}**", ""]
    lines += [*(f"- {line}" for line in report.about), ""]
    for table in report.tables:
        lines += [f"{table.caption}:", "", *markdown_table(table.header, table.rows), ""]
    lines += [report.notes, ""]
    if report.texts:
        lines += [*report.texts, ""]
    return "\n".join(lines)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    for cells in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(cells)} |"


def latex(report: Report) -> str:
    """Write the tables of a report for LaTeX's package booktabs; what was run stands above them as comments."""
    lines = [f"% {line}" for line in (report.title, *filter(None, [report.verdict]), *report.about)]
    for table in report.tables:
        lines += ["", *_latex_table(table)]
    return "\n".join([*lines, ""])


def _latex_table(table: Table) -> Iterator[str]:
    """Yield the lines of a table in LaTeX, columns of numbers to the right."""
    columns = "".join("l" if any(cell[:1].isalpha() for cell in column) else "r" for column in zip(*table.rows, strict=True))
    yield r"\begin{table}"
    yield rf"\caption{{{escaped(table.caption)}.}}"
    yield rf"\begin{{tabular}}{{{columns}}}"
    yield r"\toprule"
    yield _latex_row(table.header)
    yield r"\midrule"
    yield from map(_latex_row, table.rows)
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield r"\end{table}"


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(escaped, cells)) + r" \\"


def escaped(text: str) -> str:
    r"""Escape what LaTeX would obey.

    Example:
        >>> print(escaped("toxic %, held_out"))
        toxic \%, held\_out
    """
    return "".join(_LATEX.get(character, character) for character in text)
