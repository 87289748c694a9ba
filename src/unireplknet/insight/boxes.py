"""Objects that were found, drawn on the images they are in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import draw_segmentation_masks

from unireplknet.insight.figure import new_figure
from unireplknet.insight.masks import class_colour


def draw_boxes(pixels: np.ndarray, found: dict[str, Tensor], classes: Sequence[str], title: str, picture: Path) -> None:
    """Draw an image with the box, class and score of each object, and its mask where there are masks.

    Args:
        pixels: Shape (H, W, 3), from 0 to 1.
        found: Of N objects ``boxes`` (N, 4), ``labels`` (N,), ``scores`` (N,), and ``masks`` (N, H, W), bool.
        classes: Class names.
        title: Above the picture.
        picture: The PNG file to write.
    """
    height, width, _ = pixels.shape
    labels = found["labels"].tolist()
    if labels and "masks" in found:
        image = torch.from_numpy(np.round(pixels * 255).astype(np.uint8)).permute(2, 0, 1)
        colours = [class_colour(label) for label in labels]
        pixels = draw_segmentation_masks(image, found["masks"], alpha=0.5, colors=colours).permute(1, 2, 0).numpy()
    figure = new_figure(7, 0.7 + 6.6 * min(2.0, height / width))
    axes = figure.subplots()
    axes.imshow(pixels)
    axes.set_axis_off()
    for label, score, box in zip(labels, found["scores"].tolist(), found["boxes"].tolist(), strict=True):
        left, top, right, bottom = box
        colour = [value / 255 for value in class_colour(label)]
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, linewidth=2)
        text = {"facecolor": colour, "edgecolor": "none", "pad": 1, "alpha": 0.8}
        axes.text(left, top, f"{classes[label]} {score:.0%}", fontsize=8, va="bottom", bbox=text, clip_on=True)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    figure.suptitle(title)
    figure.savefig(picture, dpi=100)
