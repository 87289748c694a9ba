"""Images with masks -> a map and the class of each of its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from unireplknet.data.io import convert, open_image
from unireplknet.errors import UserError
from unireplknet.modalities.color import ColorInput
from unireplknet.tasks.dense.inputs import Distort, plain
from unireplknet.tasks.segment.data import IGNORE, Pair, read_numbers

Scene = tuple[tv_tensors.Image, tv_tensors.Mask]
"""Pixels (3, H, W) from 0 to 255, and classes (H, W), int64."""


@dataclass
class SegmentInput(ColorInput):
    """How an image and its mask become a map and the classes of its pixels.

    Args:
        size: Height and width in pixels of the maps in training, and of the window of sliding inference.
        short: Shorter side to which an image is scaled to be evaluated as a whole; 0 leaves it as it is.
        long: Longest side that this may give; 0 for any.
        inference: "whole" looks at the scaled image at once, "sliding" at overlapping windows.
        overlap: Part of the window that the next one sees again.
        scales: Factors on short whose answers are averaged, with their mirror images, by multi-scale evaluation.
        first_class: Number in the masks of the first class; lower numbers are ignored.
        ignore: Number in the masks of pixels that count for nothing.
        mean: Subtracted from pixel values in 0..1, one number a channel.
        std: Divides the difference, one number a channel.
    """

    size: int = 512
    short: int = 0
    long: int = 0
    inference: Literal["whole", "sliding"] = "whole"
    overlap: float = 1 / 3
    scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    first_class: int = 0
    ignore: int = 255
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    channels: ClassVar[int] = 3  # type: ignore[misc]
    task: ClassVar[str] = "segmentation"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (channels, H, W) of the maps in training."""
        return self.channels, self.size, self.size

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.overlap < 1:
            raise UserError(f"input.overlap is {self.overlap}; expected at least 0 and less than 1")

    def read(self, item: Pair | Path) -> Scene:
        """Open an image and its mask; without a mask every pixel counts for nothing.

        Raises:
            UserError: The mask is of another size, is no mask, or has numbers of no class.
        """
        item = Pair(item) if isinstance(item, Path) else item
        labels = None if item.mask is None else self.read_labels(item.mask, item.classes)
        with open_image(item.image) as file:
            image = tv_tensors.Image(convert(_as_masked(file, labels), "RGB"))
        height, width = image.shape[-2:]
        if labels is None:
            return image, tv_tensors.Mask(torch.full((height, width), IGNORE))
        if labels.shape != (height, width):
            size = f"{labels.shape[1]} x {labels.shape[0]}"
            raise UserError(f"the mask {item.mask} is {size} pixels, its image {width} x {height}")
        return image, tv_tensors.Mask(labels)

    def read_labels(self, path: Path, classes: int) -> Tensor:
        """The class of each pixel of a mask, shape (H, W), int64.

        Args:
            path: The mask.
            classes: How many classes there are.

        Raises:
            UserError: It is no mask, or has numbers of no class.
        """
        numbers = read_numbers(path)
        labels = numbers - self.first_class
        labels[(labels < 0) | (numbers == self.ignore)] = IGNORE
        if labels.max(initial=0) >= classes:
            last = self.first_class + classes - 1
            raise UserError(
                f"the mask {path} has the number {numbers[labels >= classes][0]};"
                f" the {classes} classes are {self.first_class} to {last}, and {self.ignore} is ignored"
            )
        return torch.from_numpy(labels)

    def to_map(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """The middle of a scene, to follow a training by: all of them have the same size.

        Returns:
            The map (3, size, size), of the image scaled as training scales it, and its classes (size, size).
        """
        side = max(self.short, self.size)
        return plain(v2.Compose([v2.Resize(side), v2.CenterCrop(self.size), *self.finish()])(*scene))

    def whole(self, scene: Scene) -> tuple[Tensor, Tensor]:
        """A scene to be scored, as it is: how it is looked at, and so scaled, is said by :meth:`scaled_size`.

        Returns:
            The map (3, H, W) and its classes (H, W).
        """
        return plain(v2.Compose(self.finish())(*scene))

    def scaled_size(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Height and width to which an image is scaled to be evaluated as a whole.

        Args:
            height: That of the image.
            width: That of the image.
            scale: Factor on what short and long say.
        """
        factor = self.short / min(height, width) if self.short else 1.0
        if self.long:
            factor = min(factor, self.long / max(height, width))
        return max(1, round(height * factor * scale)), max(1, round(width * factor * scale))


def _as_masked(image: Image.Image, labels: Tensor | None) -> Image.Image:
    """Upright, unless the mask is of the image as it is stored."""
    upright = ImageOps.exif_transpose(image)
    if labels is not None and labels.shape[::-1] == image.size != upright.size:
        return image
    return upright


@dataclass
class SegmentAugment:
    """Random changes to scenes; the defaults change nothing but cut out a place.

    Args:
        scale: Range of factors on the shorter side, of which input.short (or else input.size) is 1.
        flip: Probability of mirroring left and right.
        distort: Whether to change brightness, contrast, saturation and hue, each in half of the images.
        largest: Part of a crop that one class may fill; where it fills more, another place is tried, up to ten.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    distort: bool = False
    largest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"augment.scale is {self.scale}; expected two factors, the smaller one first")

    def bind(self, inputs: SegmentInput) -> Callable[[Scene], tuple[Tensor, Tensor]]:
        """The training counterpart of ``inputs.to_map``: scaled, cut out at random, filled up with ignored pixels."""
        base = inputs.short or inputs.size
        low, high = (round(base * factor) for factor in self.scale)
        longest = round(inputs.long * self.scale[1]) if inputs.long else None
        fill = {tv_tensors.Image: [round(255 * m) for m in inputs.mean], tv_tensors.Mask: IGNORE}
        resize = v2.RandomShortestSize(list(range(low, high + 1)), max_size=longest)
        crop = v2.RandomCrop(inputs.size, pad_if_needed=True, fill=fill)
        steps: list[Any] = []
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.distort:
            steps.append(Distort())
        return partial(self._to_learn, resize, crop, v2.Compose([*steps, *inputs.finish()]))

    def _to_learn(
        self, resize: v2.Transform, crop: v2.RandomCrop, finish: v2.Transform, scene: Scene
    ) -> tuple[Tensor, Tensor]:
        return plain(finish(*self._cut(resize(*scene), crop)))

    def _cut(self, scene: Scene, crop: v2.RandomCrop) -> Scene:
        for _ in range(10 if self.largest < 1 else 1):
            made = crop(*scene)
            counts = torch.bincount(made[1][made[1] != IGNORE])
            if (counts > 0).sum() > 1 and counts.max() < self.largest * counts.sum():
                break
        return made
