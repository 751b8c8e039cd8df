"""The figures of a report as files, with matplotlib (`pip install 'fktext[report]'`)."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fktext.errors import UsageError
from fktext_evals.reporting.charts import axis
from fktext_evals.reporting.figures import Figure, Line, figures, joint
from fktext_evals.reporting.labels import Box, place
from fktext_evals.running.results import Results, RunError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Suffix = Literal["svg", "png", "pdf"]

_COLOURS = ["#66655f", "#2a62ab", "#b4441a", "#1c7754", "#864b9b", "#846700", "#0c7885", "#a52f66"]  # as the page has them
_MARKERS = ["o", "s", "^", "D", "v", "d", "h", "P"]
_DASHES = ["-", "--", ":", "-."]
_STYLE = {
    "svg.hashsalt": "fktext",  # the same figure, the same file
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e9e7e0",
    "legend.frameon": False,
}


def write(runs: Sequence[Results], folder: Path, suffixes: Sequence[Suffix] = ("svg", "png")) -> list[Path]:
    """Write every figure of every run to a folder, made where there is none; files of the same name are replaced.

    Several runs with the same rewards are also drawn together, as `all-reward-seconds.svg` and the like.

    Args:
        runs: from `fktext_evals.running.results.read`.
        folder: where to; with several runs their number, or "all", comes first in the names.
        suffixes: kinds of files.

    Returns:
        What was written.

    Raises:
        UsageError: there is no matplotlib. RunError: a file cannot be written.
    """
    check_matplotlib()
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write plots to {str(folder)!r}: {error.strerror}") from error
    several = len(runs) > 1
    drawn = [(f"{number}-" if several else "", figure) for number, results in enumerate(runs, 1) for figure in figures(results)]
    if several:
        drawn += [("all-", figure) for figure in joint(runs)]
    for prefix, figure in drawn:
        name = re.sub(r"[^\w.-]+", "-", figure.name)  # a judge's name is in it
        paths = [folder / f"{prefix}{name}.{suffix}" for suffix in suffixes]
        sheet([figure], paths)
        written += paths
    return written


def check_matplotlib() -> None:
    """Refuse where there is no matplotlib.

    Raises:
        UsageError: how to get it.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError("plots need matplotlib: pip install 'fktext[report]'") from error


def sheet(panels: Sequence[Figure], paths: Sequence[Path]) -> None:
    """Draw figures side by side, and write them to each of these files, whose suffixes are a `Suffix`.

    Raises:
        UsageError: there is no matplotlib. RunError: a file cannot be written.
    """
    check_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(_STYLE):
        canvas = Canvas(figsize=(4.6 * len(panels), 3.2), layout="constrained")
        drawn = [(canvas.add_subplot(1, len(panels), at), figure) for at, figure in enumerate(panels, 1)]
        for axes, figure in drawn:
            draw(axes, figure)
        canvas.draw_without_rendering()  # from here on it is known where points are
        for axes, figure in drawn:
            if not figure.curve:
                _label(axes, figure)
        for path in paths:
            no_date = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
            try:
                canvas.savefig(path, dpi=200, metadata=no_date)
            except OSError as error:
                raise RunError(f"cannot write the plot {str(path)!r}: {error.strerror}") from error


def draw(axes: Axes, figure: Figure) -> None:
    """Draw a figure into axes of matplotlib."""
    for line in figure.lines:
        colour = _COLOURS[line.series % len(_COLOURS)]
        xs, ys = [point.x.mean for point in line.points], [point.y.mean for point in line.points]
        if figure.curve:
            axes.plot(xs, ys, color=colour, linestyle=_DASHES[line.variant % len(_DASHES)], label=line.name)
            continue
        axes.errorbar(
            xs,
            ys,
            xerr=_reach(line, "x"),
            yerr=_reach(line, "y"),
            color=colour,
            marker=_MARKERS[line.series % len(_MARKERS)],
            markersize=5,
            linewidth=1.2,
            elinewidth=0.7,
            label=line.name,
        )
    if figure.log_x:
        axes.set_xscale("log")
        ticks = axis([*axes.get_xlim()], 0, 1, log=True).ticks()
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    if figure.curve:
        axes.set_ylim(0, 1)
    axes.set_xlabel(figure.x_title)
    axes.set_ylabel(figure.y_title)
    axes.set_title(figure.title, fontsize=10, loc="left")
    axes.legend(fontsize=8)


def _label(axes: Axes, figure: Figure) -> None:
    """Write the labels of points beside them, where they cover neither each other nor points."""
    drawn = [(line, point) for line in figure.lines for point in line.points]
    where = axes.transData.transform([(point.x.mean, point.y.mean) for _, point in drawn])
    pixels = axes.figure.dpi / 72  # of a point of the font
    left, bottom, right, top = axes.bbox.extents
    flipped = [(x, -y) for x, y in where]  # pixels of matplotlib go up
    boxes = place(
        flipped, [5.2 * pixels * len(point.label) for _, point in drawn], 9 * pixels, Box(left, -top, right, -bottom), 3.5 * pixels
    )
    for (line, point), box, (x, y) in zip(drawn, boxes, flipped, strict=True):
        offset = ((box.left + box.right) / 2 - x) / pixels, (y - (box.top + box.bottom) / 2) / pixels
        axes.annotate(
            point.label,
            (point.x.mean, point.y.mean),
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            color=_COLOURS[line.series % len(_COLOURS)],
            fontsize=8,
        ).set_in_layout(False)


def _reach(line: Line, of: Literal["x", "y"]) -> Any:
    """Return (2, points) how far intervals reach below and above their means."""
    intervals = [getattr(point, of) for point in line.points]
    below = [0.0 if math.isnan(item.low) else max(0.0, item.mean - item.low) for item in intervals]
    above = [0.0 if math.isnan(item.high) else max(0.0, item.high - item.mean) for item in intervals]
    return [below, above]
