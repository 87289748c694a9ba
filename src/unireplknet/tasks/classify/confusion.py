"""Which classes are taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unireplknet.insight.figure import new_figure

READABLE = 30  # more classes than this: names and numbers would only be smudges


def draw_confusion(matrix: np.ndarray, classes: Sequence[str], picture: Path) -> None:
    """Draw a confusion matrix, each row as parts of the samples of its class.

    Args:
        matrix: Counts, shape (classes, classes); rows are true classes, columns predicted ones.
        classes: Class names.
        picture: The PNG file to write.
    """
    count = len(classes)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(12.0, 3.5 + 0.4 * count)
    figure = new_figure(side + 1, side)
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, label="part of the true class", shrink=0.8)
    axes.set(xlabel="predicted", ylabel="true", title=f"{int(matrix.trace())} of {int(matrix.sum())} right")
    if count <= READABLE:
        axes.set_xticks(range(count), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(count), classes, parse_math=False)
        for row, column in np.argwhere(matrix):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, int(matrix[row, column]), ha="center", va="center", color=colour, fontsize="small")
    figure.savefig(picture, dpi=110)


def confusions(matrix: np.ndarray, classes: Sequence[str]) -> list[tuple[str, str, int]]:
    """Which classes are taken for which, and how often, the most frequent first.

    Args:
        matrix: That of :func:`draw_confusion`.
        classes: Class names.

    Returns:
        The true class, the one it is taken for, and the number of samples.
    """
    wrong = matrix * ~np.eye(len(matrix), dtype=bool)
    pairs = sorted(np.argwhere(wrong).tolist(), key=lambda pair: -wrong[tuple(pair)])
    return [(classes[true], classes[said], int(wrong[true, said])) for true, said in pairs]
