"""What the network saw of one file, and what it said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet.insight.figure import new_figure
from unireplknet.modalities.panels import Panel

COLUMNS = 4


def draw_seen(
    panels: Sequence[Panel],
    title: str,
    classes: Sequence[str],
    probabilities: Sequence[float],
    picture: Path,
    heats: Sequence[np.ndarray] = (),
) -> None:
    """Draw a map beside the classes that the network takes it for.

    Args:
        panels: The pictures of the map.
        title: Name of the file.
        classes: The most likely classes, the first one first.
        probabilities: Theirs.
        picture: The PNG file to write.
        heats: What the pixels of each panel weigh, shape (H, W); they are drawn over a second copy of the panel, red
            where they speak for the class, blue where against it.
    """
    copies = 2 if heats else 1
    columns = min(COLUMNS, copies * len(panels))
    rows = -(-copies * len(panels) // columns)
    side = 4.6 if columns <= copies else 2.4
    figure = new_figure(side * columns + 3.2, side * rows * (0.85 if columns <= copies else 1.1) + 0.4)
    seen, said = figure.subfigures(1, 2, width_ratios=(side * columns, 3.2))
    grid = list(seen.subplots(rows, columns, squeeze=False).flat)
    for axes, panel in zip(grid[::copies], panels, strict=False):
        draw_panel(axes, panel)
    top = max((float(np.quantile(abs(heat), 0.995)) for heat in heats), default=0.0) or 1.0
    for axes, panel, heat in zip(grid[1::2], panels, heats, strict=False):
        _draw_over(axes, panel, np.clip(heat / top, -1, 1))
    for axes in grid[copies * len(panels) :]:
        axes.set_axis_off()
    bars = said.subplots()
    bars.barh(range(len(classes)), probabilities, color="tab:blue")
    bars.set(xlim=(0, 1), ylim=(max(5, len(classes)) - 0.5, -0.5), xlabel="probability")
    bars.set_yticks(range(len(classes)), classes)
    bars.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize="medium")
    figure.savefig(picture, dpi=110)


def draw_panel(axes: Any, panel: Panel, cmap: str = "") -> None:
    """Draw one picture of a map with its axes.

    Args:
        axes: Where to draw.
        panel: The picture.
        cmap: Colours for pixels that are no colours; by default those of the modality.
    """
    grey = panel.pixels.ndim == 2
    axes.imshow(
        panel.pixels,
        cmap=cmap or ("magma" if panel.across else "gray"),
        extent=panel.extent,
        aspect="auto" if panel.across else "equal",
        interpolation="nearest",
        **({} if grey else {"vmin": 0, "vmax": 1}),
    )
    axes.set(title=panel.title, xlabel=panel.across, ylabel=panel.up)
    if not panel.across:
        axes.set_axis_off()


def _draw_over(axes: Any, panel: Panel, heat: np.ndarray) -> None:
    """Draw a panel in grey, and over it numbers from -1 (blue) to 1 (red), the transparent the smaller."""
    pixels = panel.pixels if panel.pixels.ndim == 2 else panel.pixels.mean(2)
    draw_panel(axes, Panel(pixels, panel.title, panel.across, panel.up, panel.extent), "gray")
    axes.imshow(
        heat,
        cmap="bwr",
        vmin=-1,
        vmax=1,
        alpha=abs(heat),
        extent=panel.extent,
        aspect="auto" if panel.across else "equal",
        interpolation="nearest",
    )
