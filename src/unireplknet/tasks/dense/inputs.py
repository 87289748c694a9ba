"""Transforms of color images with masks or boxes."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torchvision.transforms import v2


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
