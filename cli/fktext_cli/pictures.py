"""Draw a whole population of images on one sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # these import Pillow and torch
    from PIL.Image import Image as Picture
    from torch import Tensor

TILE = 64  # least pixels of a tile's side on a sheet
BAR = 4  # pixels of the bar below a tile
WHITE, INK, FAINT = (255, 255, 255), (40, 90, 160), (225, 225, 225)


def sheet(pixels: Sequence[Tensor], weights: Sequence[float]) -> Picture:
    """Draw a population as one picture, the heaviest first; the bar below each shows its weight, full for the heaviest.

    Args:
        pixels: N images of one size; small ones are enlarged without smoothing.
        weights: (N,) that sum to 1.
    """
    from PIL import Image, ImageDraw

    from fktext.images.pictures import picture

    order = sorted(range(len(pixels)), key=lambda index: -weights[index])
    height, width = pixels[0].shape[1:]
    factor = math.ceil(TILE / min(height, width))
    height, width = height * factor, width * factor
    columns = math.ceil(math.sqrt(len(pixels)))
    rows = math.ceil(len(pixels) / columns)
    gap = 2 * BAR
    whole = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + BAR + gap) + gap), WHITE)
    draw = ImageDraw.Draw(whole)
    for place, index in enumerate(order):
        left = gap + (place % columns) * (width + gap)
        top = gap + (place // columns) * (height + BAR + gap)
        whole.paste(picture(pixels[index]).resize((width, height), Image.Resampling.NEAREST).convert("RGB"), (left, top))
        draw.rectangle((left, top + height, left + width - 1, top + height + BAR - 1), FAINT)
        if (filled := round(width * weights[index] / weights[order[0]])) > 0:
            draw.rectangle((left, top + height, left + filled - 1, top + height + BAR - 1), INK)
    return whole
