"""Masks drawn on the images they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from unireplknet.insight.figure import new_figure
from unireplknet.tasks.dense.draw import class_colour


def draw_masks(pixels: np.ndarray, mask: Tensor, classes: Sequence[str], title: str, picture: Path) -> None:
    """Draw an image, and beside it the same with the classes of its pixels in colours.

    Args:
        pixels: Shape (H, W, 3), from 0 to 1.
        mask: Class of each pixel, shape (H, W).
        classes: Class names.
        title: Above the picture.
        picture: The PNG file to write.
    """
    present = mask.unique().tolist()
    image = torch.from_numpy(np.round(pixels * 255).astype(np.uint8)).permute(2, 0, 1)
    layers = torch.stack([mask == number for number in present])
    drawn = draw_segmentation_masks(image, layers, alpha=0.6, colors=[class_colour(number) for number in present])
    height, width = mask.shape
    figure = new_figure(10, 1 + 5 * min(2.0, height / width))
    for axes, shown in zip(figure.subplots(1, 2), (image, drawn), strict=True):
        axes.imshow(shown.permute(1, 2, 0).numpy())
        axes.set_axis_off()
    for number in present:
        colour = [value / 255 for value in class_colour(number)]
        figure.axes[1].scatter([], [], marker="s", color=colour, label=classes[number])
    figure.legend(loc="outside lower center", ncols=5, fontsize="small")
    figure.suptitle(title)
    figure.savefig(picture, dpi=100)
