"""Write images as PNGs that say how they were made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor


def picture(pixels: Tensor) -> Image.Image:
    """Map (1 or 3, height, width) in [0, 1] to grey or RGB of 8 bits."""
    values = (pixels * 255).round().byte()
    return Image.fromarray((values[0] if len(values) == 1 else values.permute(1, 2, 0)).contiguous().numpy())


def png(image: Image.Image | Tensor, row: Mapping[str, Any]) -> bytes:
    """Make a PNG with `row` as JSON in its text chunk `fktext`; the image may be pixels as for `picture`."""
    about = PngInfo()
    about.add_itxt("fktext", json.dumps(row, allow_nan=False))
    data = io.BytesIO()
    (picture(image) if isinstance(image, Tensor) else image).save(data, "PNG", pnginfo=about)
    return data.getvalue()
