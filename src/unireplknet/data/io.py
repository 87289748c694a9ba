"""Decoded images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unireplknet.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode by the number of channels."""


def convert(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to 8-bit grayscale, RGB or RGBA.

    16-bit grayscale is scaled to 8 bits (Pillow alone would clip it); transparent pixels are blended with white unless
    the mode is RGBA.

    Args:
        image: An opened image.
        mode: "L", "RGB" or "RGBA".

    Returns:
        The image in that mode.

    Raises:
        UserError: The pixels are 32-bit numbers, whose range the file does not state.
    """
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).round().astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise UserError("32-bit pixels have no known range; save the image with 8 or 16 bits")
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
