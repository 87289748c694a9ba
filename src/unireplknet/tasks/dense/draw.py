"""Colours of classes in pictures."""

from __future__ import annotations

import colorsys


def class_colour(number: int) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a class: neighbours differ by the golden ratio of the colour wheel."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85 - 0.35 * (number // 8 % 2), 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)
