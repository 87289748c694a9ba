"""Images with boxes -> a map, and the objects in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from unireplknet.data.dataset import Batch, Sample, collate_apart
from unireplknet.data.io import convert, open_image
from unireplknet.errors import UserError, missing_extra
from unireplknet.modalities.color import ColorInput
from unireplknet.tasks.dense.inputs import Distort, plain
from unireplknet.tasks.detect.data import Objects

Found = tuple[tv_tensors.Image, dict[str, Tensor]]
"""Pixels (3, H, W) from 0 to 255, and of N objects their boxes (N, 4), labels, iscrowd and area (N,), and masks."""


@dataclass
class DetectInput(ColorInput):
    """How an image and its boxes become a map and what is to be found in it.

    Args:
        short: Shorter side to which images are scaled.
        long: Longest side that this may give.
        masks: Whether to read the masks of the objects, for Mask R-CNN.
        mean: Subtracted from pixel values in 0..1, one number a channel.
        std: Divides the difference, one number a channel.
    """

    short: int = 800
    long: int = 1333
    masks: bool = False
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    channels: ClassVar[int] = 3  # type: ignore[misc]
    task: ClassVar[str] = "detection"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.short <= self.long:
            raise UserError(f"input.short is {self.short}, input.long {self.long}; expected at least 1, and no less")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (channels, H, W) of the smallest map that the network sees: others have one longer side."""
        return self.channels, self.short, self.short

    def detector(self) -> dict[str, int]:
        """The sides to which the network itself scales maps, in evaluation."""
        return {"short": self.short, "long": self.long}

    def collate(self, samples: list[Sample]) -> Batch:
        """A batch of maps of all sizes."""
        return collate_apart(samples)

    def read(self, item: Objects | Path) -> Found:
        """Open an image; its boxes are cut off at its edges.

        Raises:
            UserError: The image is of another size than the boxes are for, a box lies beyond it, or a mask is none.
        """
        item = Objects(item) if isinstance(item, Path) else item
        with open_image(item.image) as file:
            image = tv_tensors.Image(convert(_as_said(file, item), "RGB"))
        height, width = image.shape[-2:]
        corners = torch.tensor([box.corners for box in item.boxes], dtype=torch.float32).reshape(-1, 4)
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width))
        boxes = v2.functional.clamp_bounding_boxes(boxes)
        if (boxes[:, 2:] <= boxes[:, :2]).any():
            worst = int((boxes[:, 2:] <= boxes[:, :2]).any(1).nonzero()[0])
            raise UserError(f"the box {item.boxes[worst].corners} lies beyond the image of {width} x {height} pixels")
        objects: dict[str, Tensor] = {
            "boxes": boxes,
            "labels": torch.tensor([box.label for box in item.boxes], dtype=torch.int64),
            "iscrowd": torch.tensor([box.crowd for box in item.boxes], dtype=torch.bool),
            "area": torch.tensor([box.area for box in item.boxes], dtype=torch.float32),
        }
        if self.masks:
            layers = [decode_outline(json.loads(box.outline or "null"), height, width) for box in item.boxes]
            objects["masks"] = tv_tensors.Mask(np.array(layers, np.uint8).reshape(-1, height, width))
        return image, objects

    def to_map(self, found: Found) -> tuple[Tensor, dict[str, Tensor]]:
        """An image to be scored, as large as it is: the network scales it, and its answers belong to the image.

        Returns:
            The map (3, H, W) and its objects.
        """
        return plain(v2.Compose(self.finish())(*found))


def _as_said(image: Image.Image, item: Objects) -> Image.Image:
    """Upright, unless the boxes are said to be for the image as it is stored."""
    upright = ImageOps.exif_transpose(image)
    for candidate in (image, upright):
        if item.size == candidate.size:
            return candidate
    if item.size is not None:
        raise UserError(f"{item.image} is {image.width} x {image.height} pixels, its boxes are for {item.size}")
    return upright


def decode_outline(outline: Any, height: int, width: int) -> np.ndarray:
    """The mask of an object in COCO's form, shape (height, width), uint8.

    Args:
        outline: Polygons, each a list of x and y in turn, or run lengths, packed or not.
        height: Height of the image.
        width: Width of the image.

    Raises:
        UserError: The outline is none, or is of another size; or the library is not installed.
    """
    try:
        from faster_coco_eval import mask as coco
    except ImportError as error:
        raise missing_extra("faster_coco_eval", "detect") from error
    try:
        made = coco.decode(coco.segmToRle(outline, width, height))
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise UserError(f"the segmentation {str(outline)[:60]} is neither polygons nor run lengths") from error
    if made.shape != (height, width):
        raise UserError(f"a segmentation is of {made.shape[1]} x {made.shape[0]} pixels, its image {width} x {height}")
    return made


@dataclass
class DetectAugment:
    """Random changes to images with boxes; the defaults change nothing.

    Args:
        scale: Range of factors on the shorter side, of which input.short is 1; the longer side stays within input.long.
        crop: Probability of cutting a piece out before that.
        piece: Range of the height and of the width of the piece as parts of the image's.
        flip: Probability of mirroring left and right.
        distort: Whether to change brightness, contrast, saturation and hue, each in half of the images.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    crop: float = 0.0
    piece: tuple[float, float] = (0.6, 1.0)
    flip: float = 0.0
    distort: bool = False

    def __post_init__(self) -> None:
        for name, most in (("scale", float("inf")), ("piece", 1.0)):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise UserError(f"augment.{name} is {(low, high)}; expected two factors, the smaller one first")

    def bind(self, inputs: DetectInput) -> Callable[[Found], tuple[Tensor, dict[str, Tensor]]]:
        """The training counterpart of ``inputs.to_map``: scaled, and without what does not count.

        Objects of which less than a pixel is left are left out.
        """
        low, high = (round(inputs.short * factor) for factor in self.scale)
        steps: list[Any] = []
        if self.crop:
            steps.append(v2.RandomApply([_Piece(*self.piece)], self.crop))
        # As the network itself scales in evaluation: bilinear, without an average over what is left out.
        steps.append(v2.RandomShortestSize(list(range(low, high + 1)), inputs.long, antialias=False))
        if self.flip:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.distort:
            steps.append(Distort())
        return partial(_to_learn, v2.Compose([*steps, v2.SanitizeBoundingBoxes(), *inputs.finish()]))


def _to_learn(change: v2.Transform, found: Found) -> tuple[Tensor, dict[str, Tensor]]:
    image, objects = found
    counted = ~objects["iscrowd"]
    kept = {name: objects[name] for name in ("boxes", "labels", "masks") if name in objects}
    return plain(change(image, {name: _like(value[counted], value) for name, value in kept.items()}))


def _like(value: Tensor, like: Tensor) -> Tensor:
    return tv_tensors.wrap(value, like=like) if isinstance(like, tv_tensors.TVTensor) else value


class _Piece(v2.Transform):
    """A piece of random height, width and place."""

    def __init__(self, least: float, most: float) -> None:
        super().__init__()
        self.least = least
        self.most = most

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        sides = list(v2.query_size(flat_inputs))
        parts = torch.empty(2).uniform_(self.least, self.most).tolist()
        height, width = (max(1, round(part * side)) for part, side in zip(parts, sides, strict=True))
        top, left = (int(torch.randint(side - cut + 1, ())) for side, cut in zip(sides, (height, width), strict=True))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return self._call_kernel(v2.functional.crop, inpt, **params)
