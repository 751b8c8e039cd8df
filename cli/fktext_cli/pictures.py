"""Draw whole populations of images on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # these import Pillow
    from PIL.Image import Image as Picture
    from PIL.ImageDraw import ImageDraw

TILE = 96  # least pixels of a tile's side: smaller images are enlarged by a whole factor
WHITE, BLACK, INK, FAINT = (255, 255, 255), (30, 30, 30), (40, 90, 160), (225, 225, 225)
RETURNED = (178, 58, 30)


@dataclass(frozen=True)
class Tile:
    """An image, what is written below it, its weight where it has one, and whether it is returned."""

    image: Picture
    label: str
    weight: float | None = None
    returned: bool = False


@dataclass(frozen=True)
class Panel:
    """Images that belong together, and what they are."""

    title: str
    tiles: Sequence[Tile]

    @property
    def columns(self) -> int:
        """Return how many stand side by side."""
        return math.ceil(math.sqrt(len(self.tiles)))

    @property
    def rows(self) -> int:
        """Return how many stand one below the other."""
        return math.ceil(len(self.tiles) / self.columns)


class _Measure:
    """What has which size, by the size of the images, all of which are equal."""

    def __init__(self, width: int, height: int) -> None:
        self.factor = math.ceil(TILE / min(width, height))
        self.width, self.height = width * self.factor, height * self.factor
        self.text = max(12, min(self.width, self.height) // 12)
        self.gap, self.bar, self.line = self.text, max(4, self.text // 3), round(1.5 * self.text)
        self.across, self.down = self.width + self.gap, self.height + self.bar + self.line + self.gap // 2

    def place(self, panel: Panel, number: int) -> tuple[int, int]:
        """Return where a tile is in its panel."""
        return self.gap + number % panel.columns * self.across, self.gap + self.line + number // panel.columns * self.down

    def size(self, panel: Panel) -> tuple[int, int]:
        """Return the size of a panel."""
        return self.gap + panel.columns * self.across, self.gap + self.line + panel.rows * self.down


def sheet(panels: Sequence[Panel]) -> Picture:
    """Draw populations side by side.

    Small images are enlarged without smoothing. A bar below an image shows its weight, full for the heaviest of its panel; what is
    returned has a frame.
    """
    from PIL import Image, ImageDraw, ImageFont

    measure = _Measure(*panels[0].tiles[0].image.size)
    sizes = [measure.size(panel) for panel in panels]
    between = 2 * measure.gap * (len(panels) - 1)
    whole = Image.new("RGB", (sum(width for width, _ in sizes) + between, max(height for _, height in sizes)), WHITE)
    draw = ImageDraw.Draw(whole)
    draw.font = ImageFont.load_default(measure.text)
    left = 0
    for panel, (width, _) in zip(panels, sizes, strict=True):
        draw.text((left + measure.gap, measure.gap // 2), panel.title, BLACK)
        heaviest = max((tile.weight or 0.0 for tile in panel.tiles), default=0.0)
        for number, tile in enumerate(panel.tiles):
            x, y = measure.place(panel, number)
            whole.paste(_larger(tile.image, measure.factor).convert("RGB"), (left + x, y))
            _below(draw, measure, tile, (left + x, y), heaviest)
        left += width + 2 * measure.gap
    return whole


def _larger(image: Picture, factor: int) -> Picture:
    from PIL import Image

    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _below(draw: ImageDraw, measure: _Measure, tile: Tile, corner: tuple[int, int], heaviest: float) -> None:
    """Draw what belongs to an image: its frame, the bar of its weight, its label."""
    x, y = corner
    right, foot = x + measure.width - 1, y + measure.height
    if tile.returned:
        wide = max(2, measure.text // 5)
        draw.rectangle((x - wide, y - wide, right + wide, foot + wide - 1), outline=RETURNED, width=wide)
    if tile.weight is not None:
        top, bottom = foot + measure.bar // 2, foot + measure.bar // 2 + measure.bar - 1
        draw.rectangle((x, top, right, bottom), FAINT)
        if heaviest and (filled := round(measure.width * tile.weight / heaviest)) > 0:
            draw.rectangle((x, top, x + filled - 1, bottom), INK)
    draw.text((x, foot + 2 * measure.bar), tile.label, BLACK)
