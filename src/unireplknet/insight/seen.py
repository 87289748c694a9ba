"""What the network saw of one file, and what it said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unireplknet.insight.figure import new_figure
from unireplknet.modalities.picture import Panel

COLUMNS = 4


def draw_seen(
    panels: Sequence[Panel], title: str, classes: Sequence[str], probabilities: Sequence[float], picture: Path
) -> None:
    """Draw a map beside the classes that the network takes it for.

    Args:
        panels: The pictures of the map.
        title: Name of the file.
        classes: The most likely classes, the first one first.
        probabilities: Theirs.
        picture: The PNG file to write.
    """
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    side = 4.6 if columns == 1 else 2.4
    figure = new_figure(side * columns + 3.2, side * rows * (0.85 if columns == 1 else 1.1) + 0.4)
    seen, said = figure.subfigures(1, 2, width_ratios=(side * columns, 3.2))
    grid = list(seen.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    bars = said.subplots()
    bars.barh(range(len(classes)), probabilities, color="tab:blue")
    bars.set(xlim=(0, 1), ylim=(max(5, len(classes)) - 0.5, -0.5), xlabel="probability")
    bars.set_yticks(range(len(classes)), classes)
    bars.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(picture, dpi=110)


def _draw(axes: Any, panel: Panel) -> None:
    grey = panel.pixels.ndim == 2
    axes.imshow(
        panel.pixels,
        cmap="magma" if panel.across else "gray",
        extent=panel.extent,
        aspect="auto" if panel.across else "equal",
        interpolation="nearest",
        **({} if grey else {"vmin": 0, "vmax": 1}),
    )
    axes.set(title=panel.title, xlabel=panel.across, ylabel=panel.up)
    if not panel.across:
        axes.set_axis_off()
