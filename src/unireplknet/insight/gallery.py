"""Samples with what the network says about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from unireplknet.insight.figure import new_figure


def draw_gallery(
    maps: Tensor, labels: Sequence[int], probabilities: Tensor, classes: Sequence[str], picture: Path
) -> None:
    """Draw maps in a grid, each with the predicted class and its probability; wrong ones in red with the truth.

    Args:
        maps: Shape (N, C, H, W); 3 channels are drawn in colour, otherwise the first as grey.
        labels: True classes, N numbers.
        probabilities: Shape (N, classes).
        classes: Class names.
        picture: The PNG file to write.
    """
    columns = 8
    rows = -(-len(maps) // columns)
    figure = new_figure(1.4 * columns, 1.75 * rows + 0.3)
    for axes in (grid := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.set_axis_off()
    for axes, pixels, label, row in zip(grid.flat, maps, labels, probabilities, strict=False):
        said = int(row.argmax())
        axes.imshow(_visible(pixels), cmap="gray")
        truth = "" if said == label else f"\nnot {classes[label]}"
        axes.set_title(
            f"{classes[said]}  {row[said]:.0%}{truth}",
            fontsize="small",
            color="black" if said == label else "tab:red",
        )
    figure.suptitle("predicted class and its probability; red where wrong", fontsize="medium")
    figure.savefig(picture, dpi=110)


def _visible(pixels: Tensor) -> np.ndarray:
    """A map as (H, W) or (H, W, 3) numbers from 0 to 1, whatever its normalisation was."""
    shown = pixels.permute(1, 2, 0) if len(pixels) == 3 else pixels[0]
    low, high = shown.min(), shown.max()
    return ((shown - low) / (high - low).clamp_min(1e-6)).numpy()
