"""Objects that were found, drawn on the images they are in, and held against the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_area, box_iou
from torchvision.utils import draw_segmentation_masks

from unireplknet.insight.figure import new_figure
from unireplknet.tasks.dense.draw import class_colour

NONE, CROWD = -2, -1
"""What :func:`match` says of boxes that stand for no object: they are wrong, or count for nothing."""


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
    figure = new_figure(7, 0.7 + 6.6 * min(2.0, height / width))
    _draw_on(figure.subplots(), pixels, found, classes)
    figure.suptitle(title, parse_math=False)
    figure.savefig(picture, dpi=100)


def draw_true_and_found(
    pixels: np.ndarray,
    truth: dict[str, Tensor],
    found: dict[str, Tensor],
    classes: Sequence[str],
    title: str,
    picture: Path,
) -> None:
    """Draw an image with its true objects, and beside it the same with those that were found.

    Args:
        pixels: Shape (H, W, 3), from 0 to 1.
        truth: The true objects, as of :func:`draw_boxes`, without scores.
        found: What was found, as there.
        classes: Class names.
        title: Above the picture.
        picture: The PNG file to write.
    """
    height, width, _ = pixels.shape
    figure = new_figure(10, 0.9 + 4.8 * min(2.0, height / width))
    for axes, objects, name in zip(figure.subplots(1, 2), (truth, found), ("true", "found"), strict=True):
        _draw_on(axes, pixels, objects, classes)
        axes.set_title(name)
    figure.suptitle(title, parse_math=False)
    figure.savefig(picture, dpi=100)


def _draw_on(axes: Any, pixels: np.ndarray, objects: dict[str, Tensor], classes: Sequence[str]) -> None:
    height, width, _ = pixels.shape
    labels = objects["labels"].tolist()
    if labels and "masks" in objects:
        image = torch.from_numpy(np.round(pixels * 255).astype(np.uint8)).permute(2, 0, 1)
        colours = [class_colour(label) for label in labels]
        drawn = draw_segmentation_masks(image, objects["masks"].bool(), alpha=0.5, colors=colours)
        pixels = drawn.permute(1, 2, 0).numpy()
    axes.imshow(pixels)
    axes.set_axis_off()
    scores = [f" {score:.0%}" for score in objects["scores"].tolist()] if "scores" in objects else [""] * len(labels)
    for label, score, box in zip(labels, scores, objects["boxes"].tolist(), strict=True):
        left, top, right, bottom = box
        colour = [value / 255 for value in class_colour(label)]
        axes.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=colour, linewidth=2)
        ground = {"facecolor": colour, "edgecolor": "none", "pad": 1, "alpha": 0.8}
        said = f"{classes[label]}{score}"
        text = axes.text(left, top, said, fontsize=8, va="bottom", bbox=ground, clip_on=True, parse_math=False)
        text.set_in_layout(False)  # names may be long, and are cut off at the edge of the image
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))


def cut_out(pixels: np.ndarray, box: Tensor, side: int = 160) -> np.ndarray:
    """A box of an image with a quarter of its size around it.

    Args:
        pixels: Shape (H, W, 3), from 0 to 1.
        box: Left, top, right and bottom in pixels, within the image.
        side: About the longest side that it may have: larger ones are made smaller, much smaller ones larger.

    Returns:
        Shape (h, w, 3), uint8.
    """
    height, width, _ = pixels.shape
    left, top, right, bottom = box.tolist()
    around = max(4.0, (right - left) / 4), max(4.0, (bottom - top) / 4)
    columns = slice(max(0, int(left - around[0])), min(width, int(np.ceil(right + around[0]))))
    rows = slice(max(0, int(top - around[1])), min(height, int(np.ceil(bottom + around[1]))))
    piece = np.round(255 * pixels[rows, columns]).astype(np.uint8)
    longest = max(piece.shape[:2])
    if longest > side:
        step = -(-longest // side)
        return piece[step // 2 :: step, step // 2 :: step]
    times = max(1, side // longest)
    return piece.repeat(times, 0).repeat(times, 1)


def match(found: dict[str, Tensor], truth: dict[str, Tensor], overlap: float = 0.5) -> Tensor:
    """Which true object each found one stands for.

    As in COCO's evaluation, the surest box comes first, and each takes the object of its class that it covers best of
    those that are left.

    Args:
        found: ``boxes`` (N, 4), ``labels`` (N,) and ``scores`` (N,), the highest first.
        truth: ``boxes`` (M, 4), ``labels`` (M,), and ``iscrowd`` (M,), bool.
        overlap: Least intersection over union.

    Returns:
        Positions among the true objects, shape (N,); :data:`NONE` where there is none, :data:`CROWD` where the box lies
        by ``overlap`` in a group that nobody has counted.
    """
    same, crowd = found["labels"][:, None] == truth["labels"], truth["iscrowd"]
    covers = box_iou(found["boxes"], truth["boxes"]) * same
    # Of a crowd only the part of the found box counts that lies in it.
    both = covers / (1 + covers) * (box_area(found["boxes"])[:, None] + box_area(truth["boxes"]))
    inside = (both >= overlap * box_area(found["boxes"])[:, None])[:, crowd].any(1)
    left = ~crowd
    matched = torch.where(inside, CROWD, NONE)
    for i in range(len(matched)):
        candidates = covers[i] * left
        if left.any() and candidates.max() >= overlap:
            matched[i] = candidates.argmax()
            left[matched[i]] = False
    return matched
