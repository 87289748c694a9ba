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
