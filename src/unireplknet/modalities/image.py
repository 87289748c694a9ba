"""Images: any file that Pillow opens -> a C x H x W map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from unireplknet.data.io import MODES, convert, open_image
from unireplknet.errors import UserError
from unireplknet.modalities.color import ColorInput
from unireplknet.registry import Modality


@dataclass
class ImageInput(ColorInput):
    """How an image becomes a map.

    Args:
        size: Height and width of the map in pixels.
        channels: 1 (grey), 3 (colour) or 4 (colour and transparency); images in files are converted.
        fit: "crop" scales the shorter side to size / crop and cuts the centre; "squash" scales both sides to size.
        crop: Part of the scaled image that "crop" keeps.
        interpolation: How to scale.
        mean: Subtracted from pixel values in 0..1, one number a channel.
        std: Divides the difference, one number a channel.
    """

    size: int = 224
    channels: int = 3
    fit: Literal["crop", "squash"] = "crop"
    crop: float = 0.875
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if self.channels not in MODES:
            raise UserError(f"input.channels is {self.channels}; images have 1, 3 or 4")
        super().__post_init__()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (channels, H, W) of the map."""
        return self.channels, self.size, self.size

    def read(self, item: Path | BinaryIO | np.ndarray) -> Image.Image:
        """Open a file, or wrap an 8-bit grey array of shape (H, W), as an image with the wanted channels."""
        if isinstance(item, np.ndarray):
            return Image.fromarray(item).convert(MODES[self.channels])
        with open_image(item) as image:
            return convert(ImageOps.exif_transpose(image), MODES[self.channels])

    def to_map(self, image: Image.Image | Tensor) -> Tensor:
        """The map of an image for evaluation: scaled, cut and normalised.

        Args:
            image: An image with the wanted channels, or 8-bit pixels of shape (..., channels, H, W).

        Returns:
            A float32 tensor of shape (..., channels, size, size).
        """
        return self._pipeline(image)

    @property
    def resampling(self) -> InterpolationMode:
        """The interpolation as torchvision names it."""
        return InterpolationMode(self.interpolation)

    @cached_property
    def _pipeline(self) -> v2.Compose:
        if self.fit == "squash":
            steps = [v2.Resize((self.size, self.size), self.resampling)]
        else:
            steps = [v2.Resize(round(self.size / self.crop), self.resampling), v2.CenterCrop(self.size)]
        return v2.Compose([*steps, *self.finish()])


@dataclass
class ImageAugment:
    """Random changes to training images; the defaults change nothing.

    Args:
        crop_scale: Area range of a random crop that is scaled to the map; (1, 1) keeps the evaluation framing.
        flip: Probability of mirroring left and right.
        rotate: Largest rotation in degrees.
        translate: Largest shift as a part of the size.
        zoom: Largest scaling, up and down: 0.1 gives 0.9 to 1.1.
        shear: Largest shear in degrees.
        fill: Grey value, 0 (black) to 255 (white), of what rotating and shifting brings into the picture.
        brightness: Largest change of brightness and contrast as a part.
        policy: A timm policy such as "rand-m9-mstd0.5-inc1"; empty for none.
        erase: Probability of blanking a random rectangle.
        erase_with: What to fill it with: "mean" (the value to which mean is normalised) or "noise".
    """

    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    rotate: float = 0.0
    translate: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    fill: int = 0
    brightness: float = 0.0
    policy: str = ""
    erase: float = 0.0
    erase_with: Literal["mean", "noise"] = "mean"

    def bind(self, inputs: ImageInput) -> Callable[[Image.Image | Tensor], Tensor]:
        """The training counterpart of ``inputs.to_map``."""
        finish = inputs.finish()
        if self.erase:
            finish.append(v2.RandomErasing(self.erase, value="random" if self.erase_with == "noise" else 0))
        return v2.Compose([*self._framing(inputs), *self._distortions(inputs), *finish])

    def _framing(self, inputs: ImageInput) -> list[v2.Transform]:
        if self.crop_scale != (1.0, 1.0):
            return [v2.RandomResizedCrop(inputs.size, self.crop_scale, interpolation=inputs.resampling)]
        if inputs.fit == "squash":
            return [v2.Resize((inputs.size, inputs.size), inputs.resampling)]
        return [v2.Resize(inputs.size, inputs.resampling), v2.RandomCrop(inputs.size)]

    def _distortions(self, inputs: ImageInput) -> list[Any]:
        steps: list[Any] = []
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.rotate or self.translate or self.zoom or self.shear:
            steps.append(
                v2.RandomAffine(
                    degrees=self.rotate,
                    translate=(self.translate, self.translate),
                    scale=(1 - self.zoom, 1 + self.zoom),
                    shear=(-self.shear, self.shear, -self.shear, self.shear),
                    interpolation=InterpolationMode.BILINEAR,
                    fill=self.fill,
                )
            )
        if self.brightness:
            steps.append(v2.ColorJitter(self.brightness, self.brightness))
        return steps + self._policy(inputs)

    def _policy(self, inputs: ImageInput) -> list[Any]:
        return [_timm_policy(self.policy, inputs)] if self.policy else []


def _timm_policy(name: str, inputs: ImageInput) -> Callable[[Image.Image], Image.Image]:
    """A policy of timm's, by its name there."""
    from timm.data import auto_augment as timm_policies

    grey = tuple(round(255 * m) for m in inputs.mean)
    settings = {"translate_const": round(inputs.size * 0.45), "img_mean": grey}
    if name.startswith("rand"):
        policy = timm_policies.rand_augment_transform(name, settings)
        operations = policy.ops
    else:
        policy = timm_policies.auto_augment_transform(name, settings)
        operations = [operation for choice in policy.policy for operation in choice]
    for operation in operations:
        if operation.aug_fn is timm_policies.posterize:
            operation.aug_fn = _posterize
    return policy


def _posterize(image: Image.Image, bits: int, **_: Any) -> Image.Image:
    """Keep the highest bits of each channel; timm's strongest level keeps 0, which Pillow no longer takes: black."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


MODALITY = Modality(ImageInput, ImageAugment)
