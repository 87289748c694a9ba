"""Samples with what the network says about them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unireplknet.errors import missing_extra
from unireplknet.insight.figure import new_figure
from unireplknet.modalities.panels import Panel

LINE = 64
"""Grey of the lines between the panels of a thumbnail."""


@dataclass(frozen=True)
class Shown:
    """A sample, and what the network takes it for.

    Attributes:
        name: What to call it.
        picture: That of :func:`thumbnail`.
        truth: Its class.
        said: The class that the network says.
        probability: Its probability.
    """

    name: str
    picture: np.ndarray
    truth: str
    said: str
    probability: float


def draw_gallery(samples: Sequence[Shown], title: str, picture: Path) -> None:
    """Draw samples in a grid, each with the predicted class and its probability; wrong ones in red with the truth.

    Args:
        samples: What to draw.
        title: Above the grid.
        picture: The PNG file to write.
    """
    columns = 8
    rows = max(1, -(-len(samples) // columns))
    figure = new_figure(1.4 * columns, 1.75 * rows + 0.3)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, sample in zip(grid.flat, samples, strict=False):
        right = sample.said == sample.truth
        axes.imshow(sample.picture)
        axes.set_title(
            f"{sample.said}  {sample.probability:.0%}" + ("" if right else f"\nnot {sample.truth}"),
            fontsize="small",
            color="black" if right else "tab:red",
            parse_math=False,
        )
    figure.suptitle(title, fontsize="medium")
    figure.savefig(picture, dpi=110)


def thumbnail(panels: Sequence[Panel]) -> np.ndarray:
    """All that the network saw of a sample as one small picture without axes, its panels side by side.

    Args:
        panels: The pictures of a map; all have one size.

    Returns:
        Red, green and blue, shape (H, W, 3), uint8.
    """
    colours = [_colours(panel) for panel in panels]
    height, width, _ = colours[0].shape
    columns = math.ceil(math.sqrt(len(colours)))
    rows = -(-len(colours) // columns)
    line = int(len(colours) > 1)  # between panels, a pixel wide
    sheet = np.full((rows * (height + line) - line, columns * (width + line) - line, 3), LINE, np.uint8)
    for number, pixels in enumerate(colours):
        top, left = number // columns * (height + line), number % columns * (width + line)
        sheet[top : top + height, left : left + width] = pixels
    return sheet


def _colours(panel: Panel) -> np.ndarray:
    """A panel as red, green and blue from 0 to 255; numbers that are no colours from their least to their most."""
    pixels = panel.pixels
    if pixels.ndim == 2:
        low, high = pixels.min(), pixels.max()
        pixels = (pixels - low) / max(high - low, 1e-6)
        pixels = _magma(pixels) if panel.across else np.repeat(pixels[..., None], 3, 2)
    return np.round(255 * pixels).astype(np.uint8)


def _magma(values: np.ndarray) -> np.ndarray:
    try:
        from matplotlib import colormaps
    except ImportError as error:
        raise missing_extra("matplotlib", "plots") from error
    return colormaps["magma"](values)[..., :3]
