"""What the network saw: a map as pictures with labelled axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class Panel:
    """One picture of a map.

    Attributes:
        pixels: Shape (H, W) for a scale of greys or colours, (H, W, 3) for red, green and blue from 0 to 1.
        title: What it shows, where a map has several panels.
        across: Name and unit of the horizontal axis; empty for pixels that need no axis.
        up: Name and unit of the vertical axis.
        extent: Left, right, bottom and top of the picture in those units; row 0 is the top one.
    """

    pixels: np.ndarray
    title: str = ""
    across: str = ""
    up: str = ""
    extent: tuple[float, float, float, float] | None = None


def panels(inputs: Any, sample: Tensor) -> list[Panel]:
    """The pictures of a map: what the modality's own ``panels`` says, otherwise each channel in grey.

    Args:
        inputs: The input that made the map.
        sample: The map, shape (C, H, W).
    """
    if hasattr(inputs, "panels"):
        return inputs.panels(sample)
    several = len(sample) > 1
    return [Panel(channel.numpy(), f"channel {i}" if several else "") for i, channel in enumerate(sample)]


def heat(inputs: Any, weights: Tensor) -> list[np.ndarray]:
    """What the numbers of a map weigh, on the pixels of its :func:`panels`: shape (H, W) for each panel.

    Args:
        inputs: The input that made the map; its own ``heat`` says where a number is to be seen, otherwise each channel
            is a panel.
        weights: One for each number of the map, shape (C, H, W).
    """
    if hasattr(inputs, "heat"):
        return inputs.heat(weights)
    return [channel.numpy() for channel in weights]
