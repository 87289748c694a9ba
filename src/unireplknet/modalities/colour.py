"""What inputs share that look at colour images on which something is marked: masks, or boxes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageInput
from unireplknet.modalities.panels import Panel


class ColourInput:
    """Colour images as normalised maps, and back.

    Attributes:
        mean: Subtracted from pixel values in 0..1, one number a channel.
        std: Divides the difference, one number a channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    extensions: ClassVar[tuple[str, ...]] = ImageInput.extensions
    channels: ClassVar[int] = 3

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise UserError(f"input.{name} has {len(getattr(self, name))} numbers; expected {self.channels}")

    def panels(self, sample: Tensor) -> list[Panel]:
        """The map as a picture again."""
        shape = (-1, 1, 1)
        pixels = sample * torch.tensor(self.std).view(shape) + torch.tensor(self.mean).view(shape)
        return [Panel(pixels.clamp(0, 1).permute(1, 2, 0).numpy())]

    def finish(self) -> list[v2.Transform]:
        """The last steps of every pipeline: pixels to normalised numbers; what else there is stays as it is."""
        kinds = {tv_tensors.Image: torch.float32, "others": None}
        return [v2.ToDtype(kinds, scale=True), v2.Normalize(self.mean, self.std)]


class Distort(v2.RandomPhotometricDistort):
    """Changes brightness, contrast, saturation and hue, each in half of the images.

    torchvision's also exchanges red, green and blue in half of them, which that of the published segmenters does not:
    many objects are known by their colour.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is changed, and by how much."""
        return super().make_params(flat_inputs) | {"channel_permutation": None}


def plain(made: Any) -> Any:
    """What torchvision's transforms made, without the marks of what it is."""
    if isinstance(made, tuple):
        return tuple(map(plain, made))
    if isinstance(made, dict):
        return {name: plain(value) for name, value in made.items()}
    return made.as_subclass(Tensor)
