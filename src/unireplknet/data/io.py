"""Decoded images."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from unireplknet.errors import UserError

MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode by the number of channels."""


FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""Formats that are read, whatever a file is called: Pillow would start other programs for some of the rest."""


def open_image(source: Path | BinaryIO) -> Image.Image:
    """Open an image; pixels are decoded when they are first used.

    Args:
        source: A file.

    Raises:
        OSError: It cannot be read, or is of no format that is read here.
    """
    image = Image.open(source, formats=_known_formats())
    if image.format == "PPM" and image.mode == "I":  # 9 to 16 bits, which Pillow scales to 16
        with image:
            return Image.fromarray(np.asarray(image).astype(np.uint16))
    return image


@cache
def _known_formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


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
