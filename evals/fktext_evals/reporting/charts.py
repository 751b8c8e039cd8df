"""Figures as SVG for the page, without a script; colours come from its style sheet (classes `s0` to `s7` are the series)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from fktext_evals.reporting.figures import Figure, Line
from fktext_evals.reporting.labels import Box, place
from fktext_evals.statistics import Interval

SERIES = 8  # as many colours and markers
_WIDTH, _HEIGHT = 460, 310
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 26, 14, 46
_LETTER, _LINE = 8.0, 13.0  # room for a label: the widest letter on a phone, where labels are larger, and a line


@dataclass(frozen=True)
class Axis:
    """Maps values between `low` and `high` to pixels between `start` and `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high, value = (math.log(item) if self.log else item for item in (self.low, self.high, value))
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 2)

    def ticks(self, about: int = 5) -> list[float]:
        """List round numbers on the axis."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / about)
        return [
            round(place * step, 10) for place in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
        ]


def axis(values: Iterable[float], start: float, end: float, log: bool = False) -> Axis:
    """Make an axis with room for all finite values; a log axis has room for those above 0."""
    found = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = min(found), max(found)
    if log:
        return Axis(low / 1.25, high * 1.25, start, end, log=True)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, start, end)


def chart(figure: Figure) -> Markup:
    """Draw the figure as an `<svg>`, with a title and a description in words for those who cannot see it."""
    points = [point for line in figure.lines for point in line.points]
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    if figure.curve:  # from step 0 to the last one, with room for names at the ends
        room = max(len(line.name) for line in figure.lines) * _LETTER - _RIGHT + 6
        x, y = Axis(0, max(point.x.mean for point in points), _LEFT, right - room), Axis(0, 1, bottom, _TOP)
    else:
        x = axis(_ends(point.x for point in points), _LEFT, right, figure.log_x)
        y = axis(_ends(point.y for point in points), bottom, _TOP)
    parts = [*_frame(figure, x, y), *(_curve(line, x, y) if figure.curve else _marks(line, x, y) for line in figure.lines)]
    parts += (_end_labels if figure.curve else _point_labels)(figure.lines, x, y)
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        _WIDTH, _HEIGHT, _in_words(figure), figure.title, Markup("").join(parts)
    )


def strip(interval: Interval, scale: Axis, series: int | None = None, zero: bool = False) -> Markup:
    """Draw an interval as a line with a dot at the mean, for a cell of a table; `zero` marks 0."""
    height = 18
    parts = []
    if zero:
        parts.append(_line("zero", scale(0), 1, scale(0), height - 1))
    if not math.isnan(interval.low):
        parts.append(_line("ci", scale(interval.low), height / 2, scale(interval.high), height / 2))
    parts.append(Markup('<circle class="dot" cx="{}" cy="{}" r="3.2"/>').format(scale(interval.mean), height / 2))
    return Markup('<svg class="strip {}" viewBox="0 0 {} {}" width="{}" height="{}" aria-hidden="true">{}</svg>').format(
        "" if series is None else f"s{series % SERIES}", scale.end + 5, height, scale.end + 5, height, Markup("").join(parts)
    )


def strip_axis(intervals: Sequence[Interval], zero: bool = False) -> Axis:
    """Make one scale for the strips of a column; with `zero` 0 is on it."""
    ends = [value for value in _ends(intervals) if math.isfinite(value)] + [0.0] * (zero or not intervals)
    ends = ends or [0.0]
    low, high = min(ends), max(ends)
    return Axis(low, high if high > low else low + 1, 5, 105)


def marker(series: int, x: float = 6, y: float = 6, size: float = 4.2) -> Markup:
    """Draw the mark of a series: a shape as well as a colour."""
    kind = series % SERIES
    if kind == 0:
        return Markup('<circle class="m" cx="{}" cy="{}" r="{}"/>').format(x, y, size)
    shapes = {
        1: [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2: [(0, -1.2), (1.1, 0.85), (-1.1, 0.85)],
        3: [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        4: [(0, 1.2), (1.1, -0.85), (-1.1, -0.85)],
        5: [(-0.4, -1.2), (0.4, -1.2), (0.4, 1.2), (-0.4, 1.2)],
        6: [(-1.2, -0.4), (1.2, -0.4), (1.2, 0.4), (-1.2, 0.4)],
        7: [(-1.2, 0), (0, -0.7), (1.2, 0), (0, 0.7)],
    }
    path = " ".join(f"{x + size * dx:.2f},{y + size * dy:.2f}" for dx, dy in shapes[kind])
    return Markup('<polygon class="m" points="{}"/>').format(path)


def number(value: float, digits: int = 3, sign: str = "") -> str:
    """Write a number for readers: few digits, a true minus sign, thin spaces between thousands."""
    if math.isinf(value) or math.isnan(value):
        return {math.inf: "∞", -math.inf: "\u2212∞"}.get(value, "\u2013")
    shown = f"{value:{sign},.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:{sign}.{digits}g}"
    if "e" in shown:
        shown = f"{value:{sign}.1e}"
    return shown.replace("-", "\u2212").replace(",", "\u2009")


def _frame(figure: Figure, x: Axis, y: Axis) -> list[Markup]:
    """Draw grid, ticks and titles of the axes."""
    bottom, right = _HEIGHT - _BOTTOM, x.end
    parts = []
    for value in y.ticks():
        parts.append(_line("grid", _LEFT, y(value), right, y(value)))
        parts.append(_text(_LEFT - 7, y(value) + 4, number(value), "end"))
    for value in x.ticks():
        parts.append(_line("tick", x(value), bottom, x(value), bottom + 4))
        parts.append(_text(x(value), bottom + 17, number(value), "middle"))
    parts.append(_line("base", _LEFT, bottom, right, bottom))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 8, figure.x_title, "middle", "title"))
    middle = (_TOP + bottom) / 2
    rotated = Markup('<text class="title" text-anchor="middle" transform="translate(13 {}) rotate(-90)">{}</text>')
    return [*parts, rotated.format(middle, figure.y_title)]


def _marks(line: Line, x: Axis, y: Axis) -> Markup:
    """Draw points with their intervals, and join them."""
    parts = [
        _line("join", x(before.x.mean), y(before.y.mean), x(after.x.mean), y(after.y.mean))
        for before, after in pairwise(line.points)
    ]
    for point in line.points:
        across, up = x(point.x.mean), y(point.y.mean)
        if math.isfinite(point.y.low):
            parts.append(_line("ci", across, y(point.y.low), across, y(point.y.high)))
        if math.isfinite(point.x.low) and (point.x.low > 0 or not x.log):
            parts.append(_line("ci", x(point.x.low), up, x(point.x.high), up))
        title = f"{line.name}, N = {point.label}: {_said(point.x)}, {_said(point.y)}"
        parts.append(Markup("<g>{}<title>{}</title></g>").format(marker(line.series, across, up), title))
    return Markup('<g class="s{}">{}</g>').format(line.series % SERIES, Markup("").join(parts))


def _curve(line: Line, x: Axis, y: Axis) -> Markup:
    path = " ".join(f"{x(point.x.mean)},{y(point.y.mean)}" for point in line.points)
    form = '<g class="s{} v{}"><polyline class="curve" points="{}"/><title>{}</title></g>'
    return Markup(form).format(line.series % SERIES, line.variant % 4, path, line.name)


def _point_labels(lines: Sequence[Line], x: Axis, y: Axis) -> list[Markup]:
    """Write the labels of points beside them, where they cover neither each other nor points."""
    drawn = [(line, point) for line in lines for point in line.points]
    where = [(x(point.x.mean), y(point.y.mean)) for _, point in drawn]
    boxes = place(where, [_LETTER * len(point.label) for _, point in drawn], _LINE, Box(_LEFT, 0, _WIDTH, y.start), 5)
    return [
        _text((box.left + box.right) / 2, box.bottom - 3, point.label, "middle", f"label s{line.series % SERIES}")
        for (line, point), box in zip(drawn, boxes, strict=True)
    ]


def _end_labels(lines: Sequence[Line], x: Axis, y: Axis) -> list[Markup]:
    """Write the names of curves at their ends, moved apart where they would overlap, as little as the room allows."""
    order = sorted(lines, key=lambda line: line.points[-1].y.mean)
    wanted = [y(line.points[-1].y.mean) + 4 for line in order]  # downwards in pixels, so the lowest curve has the largest
    for at in range(1, len(order)):
        wanted[at] = min(wanted[at], wanted[at - 1] - _LINE)
    for above, at in enumerate(reversed(range(len(order)))):  # what stands out at the top moves back down
        wanted[at] = max(wanted[at], y.end + 4 + above * _LINE)
    return [
        _text(x.end + 6, height, line.name, "start", f"label s{line.series % SERIES}")
        for line, height in zip(order, wanted, strict=True)
    ]


def _in_words(figure: Figure) -> str:
    said = [
        f"{line.name}: {_said(line.points[0].y)} at first, {_said(line.points[-1].y)} at last"
        if figure.curve
        else f"{line.name}: " + "; ".join(f"N = {point.label} at {_said(point.x)}, {_said(point.y)}" for point in line.points)
        for line in figure.lines
    ]
    return f"{figure.title}. {figure.y_title} by {figure.x_title}. {'. '.join(said)}."


def _said(interval: Interval) -> str:
    if math.isnan(interval.low):
        return number(interval.mean)
    return f"{number(interval.mean)} [{number(interval.low)}, {number(interval.high)}]"


def _ends(intervals: Iterable[Interval]) -> list[float]:
    return [value for item in intervals for value in (item.mean, item.low, item.high) if not math.isnan(value)]


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(kind, x1, y1, x2, y2)


def _text(x: float, y: float, text: str, anchor: str, kind: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}" text-anchor="{}">{}</text>').format(kind, round(x, 2), round(y, 2), anchor, text)


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    """List 1, 2, 5 of each power of ten, or powers alone where that would be too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    fine = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    ticks = [value for value in fine if low <= value <= high]
    return ticks if len(ticks) <= 7 else [value for value in ticks if abs(math.log10(value) - round(math.log10(value))) < 1e-9]
