"""Labels in charts cover neither each other nor the points."""

from __future__ import annotations

import math
import random
import re
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from fktext_evals.reporting import plots
from fktext_evals.reporting.charts import chart
from fktext_evals.reporting.figures import Figure, Line, Point
from fktext_evals.reporting.labels import Box, place
from fktext_evals.statistics import Interval

FRAME = Box(0, 0, 400, 300)


@pytest.mark.parametrize("seed", range(20))
def test_labels_of_a_crowd_are_apart(seed: int) -> None:
    chance = random.Random(seed)
    middle = chance.uniform(30, 370), chance.uniform(30, 270)
    points = [(middle[0] + chance.uniform(-12, 12), middle[1] + chance.uniform(-12, 12)) for _ in range(6)]
    boxes = place(points, [14.0] * 6, 12, FRAME, 5)
    assert all(one.shared(other) == 0 for one, other in combinations(boxes, 2))
    for x, y in points:
        assert all(box.shared(Box(x - 5, y - 5, x + 5, y + 5)) == 0 for box in boxes)
    assert all(box.shared(FRAME) == pytest.approx(box.area) for box in boxes)


def test_a_label_alone_stands_close_and_inside() -> None:
    [box] = place([(200, 150)], [14], 12, FRAME, 5)
    assert (200 < box.left < 210, 140 < box.bottom < 150) == (True, True)
    [corner] = place([(398, 2)], [14], 12, FRAME, 5)
    assert corner.shared(FRAME) == pytest.approx(corner.area)


def exactly(value: float) -> Interval:
    return Interval(value, math.nan, math.nan)


def crowded() -> Figure:
    """Points of three methods at nearly the same place, as base, best-of-n and FK at N = 4 often are."""
    lines = [
        Line(name, number, (Point(exactly(x), exactly(y), label), Point(exactly(4 * x), exactly(2 - y), "16")))
        for number, (name, label, x, y) in enumerate([("base", "1", 1, 0.1), ("b", "4", 1.02, 0.102), ("fk", "4", 1.01, 0.098)])
    ]
    return Figure("f", "t", "a", "x", "y", tuple(lines), log_x=True)


def test_labels_in_the_page_are_apart() -> None:
    found = re.findall(r'<text class="label s\d" x="([\d.]+)" y="([\d.]+)" text-anchor="middle">(\d+)<', chart(crowded()))
    assert sorted(label for *_, label in found) == ["1", "16", "16", "16", "4", "4"]
    boxes = [Box(float(x) - 4 * len(text), float(y) - 10, float(x) + 4 * len(text), float(y) + 2) for x, y, text in found]
    assert all(one.shared(other) == 0 for one, other in combinations(boxes, 2))


def test_labels_in_matplotlib_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure as Canvas

    boxes = []
    monkeypatch.setattr(  # before it is saved, in the pixels of the drawing
        Canvas, "savefig", lambda self, *given, **more: boxes.extend(text.get_window_extent() for text in self.axes[0].texts)
    )
    plots.sheet([crowded()], [tmp_path / "f.png"])
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_names_of_many_curves_are_apart_and_inside() -> None:
    ends = [1.0, 0.999, 0.998, 0.2, 0.0, 0.001]
    lines = [Line(f"m {n}", n, tuple(Point(exactly(x), exactly(end)) for x in (0, 9))) for n, end in enumerate(ends)]
    text = chart(Figure("f", "t", "a", "x", "y", tuple(lines), curve=True))
    heights = sorted(float(y) for y in re.findall(r'<text class="label s\d" x="[\d.]+" y="([\d.]+)" text-anchor="start">', text))
    assert len(heights) == 6
    assert all(below - above >= 12 for above, below in pairwise(heights))
    assert heights[0] >= 12
