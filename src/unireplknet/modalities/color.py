"""Pixels as normalized maps, and back."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from unireplknet.errors import UserError
from unireplknet.modalities.panels import Panel

EXTENSIONS = (".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Image files that Pillow reads."""


class ColorInput:
    """Base of inputs whose maps are normalized pixels.

    Attributes:
        mean: Subtracted from pixel values in 0..1, one number per channel.
        std: Divides the difference, one number per channel.
        channels: Channels of the map.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int

    extensions: ClassVar[tuple[str, ...]] = EXTENSIONS

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise UserError(
                    f"input.{name} has {len(getattr(self, name))} numbers; expected one per channel, {self.channels}"
                )

    def finish(self) -> list[v2.Transform]:
        """Return the last steps of every pipeline: pixels to normalized numbers; masks and boxes stay as they are."""
        kinds = {tv_tensors.Image: torch.float32, tv_tensors.Video: torch.float32, "others": None}
        return [v2.ToImage(), v2.ToDtype(kinds, scale=True), v2.Normalize(self.mean, self.std)]

    def panels(self, sample: Tensor) -> list[Panel]:
        """Return the map as a picture again."""
        shape = (-1, 1, 1)
        pixels = sample * torch.tensor(self.std).view(shape) + torch.tensor(self.mean).view(shape)
        pixels = pixels.clamp(0, 1)
        return [Panel((pixels[0] if self.channels == 1 else pixels[:3].permute(1, 2, 0)).numpy())]

    def heat(self, weights: Tensor) -> list[np.ndarray]:
        """Return weights of the map's numbers on the picture: the sum over the channels."""
        return [weights.sum(0).numpy()]
