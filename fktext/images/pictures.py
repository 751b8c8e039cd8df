"""Write images as PNGs that say how they were made, and as thumbnails."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from fktext.images.process import Image as Sample

CRISP = 32  # pixels: an image of no more is shown with its pixels as squares


def picture(pixels: Tensor) -> Image.Image:
    """Map (1 or 3, height, width) in [0, 1] to grey or RGB of 8 bits."""
    values = (pixels * 255).round().byte()
    return Image.fromarray((values[0] if len(values) == 1 else values.permute(1, 2, 0)).contiguous().numpy())


def enlarged(pixels: Tensor, factor: int) -> Image.Image:
    """Draw each pixel as a square of factor x factor; see `picture`."""
    image = picture(pixels)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def png(image: Image.Image | Tensor, row: Mapping[str, Any]) -> bytes:
    """Make a PNG with `row` as JSON in its text chunk `fktext`; the image may be pixels as for `picture`."""
    about = PngInfo()
    about.add_itxt("fktext", json.dumps(row, allow_nan=False))
    data = io.BytesIO()
    (picture(image) if isinstance(image, Tensor) else image).save(data, "PNG", pnginfo=about)
    return data.getvalue()


def thumbnail(image: Sample, side: int) -> str:
    """Return a `data:` address of an image, its longer side at most `side` pixels: a PNG of 32 pixels or fewer, else a JPEG."""
    pixels = image.shrunk(side).pixels
    kind, options = ("png", {"optimize": True}) if max(pixels.shape[1:]) <= CRISP else ("jpeg", {"quality": 80})
    data = io.BytesIO()
    picture(pixels).save(data, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"
