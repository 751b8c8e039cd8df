"""Where the labels of points in a chart go, so that they cover neither each other nor the points."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle, in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def shared(self, other: Box) -> float:
        """Return the area that two have in common."""
        across = min(self.right, other.right) - max(self.left, other.left)
        down = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, across) * max(0.0, down)

    @property
    def area(self) -> float:
        """Return the area."""
        return (self.right - self.left) * (self.bottom - self.top)


def place(points: Sequence[tuple[float, float]], widths: Sequence[float], height: float, frame: Box, mark: float) -> list[Box]:
    """Place a label beside each point: in the first free place around it, the nearest first, else where it covers least.

    Args:
        points: the middles of the marks, in pixels; those of all lines.
        widths: of the labels.
        height: of the labels.
        frame: what they stay inside of, where that can be.
        mark: half the size of a mark.
    """
    taken = [Box(x - mark, y - mark, x + mark, y + mark) for x, y in points]
    found: list[Box] = []
    for (x, y), width in zip(points, widths, strict=True):
        places = list(_around(x, y, width, height, mark))
        costs = [sum(each.shared(other) for other in taken) + 4 * (each.area - each.shared(frame)) for each in places]
        best = places[costs.index(min(costs))]
        found.append(best)
        taken.append(best)
    return found


def _around(x: float, y: float, width: float, height: float, mark: float) -> Iterator[Box]:
    """Yield places around a point: above to the right first, then further and further out."""
    for ring in range(4):
        gap = mark + 2 + ring * height
        for across, down in ((1, -1), (1, 1), (-1, -1), (-1, 1), (1, 0), (-1, 0), (0, -1), (0, 1)):
            left = x + {1: gap * 0.8, 0: -width / 2, -1: -gap * 0.8 - width}[across] + (0 if down else across * gap * 0.2)
            top = y + {1: gap * 0.8, 0: -height / 2, -1: -gap * 0.8 - height}[down] + (0 if across else down * gap * 0.2)
            yield Box(left, top, left + width, top + height)
