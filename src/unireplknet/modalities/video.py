"""Videos: frames of one clip, tiled into one C x H x W map."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tvf

from unireplknet.data.frames import Frames, open_frames
from unireplknet.data.io import MODES
from unireplknet.data.shards.samples import ShardFile
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.modalities.panels import Panel
from unireplknet.randomness import random_state
from unireplknet.registry import Modality

logger = logging.getLogger(__name__)


@dataclass
class VideoInput:
    """How a video becomes a map.

    A clip is ``frames`` frames; its frames are laid side by side, row by row in the order of time: a map of 3 x
    (rows * size) x (columns * size), as the journal version says in section 3.3 (16 frames of 224: 3 x 896 x 896).

    Args:
        frames: Frames of a clip.
        sampling: "dense" takes frames that are stride apart, "uniform" spreads them over the whole video.
        stride: Distance of the frames that "dense" takes.
        short: What to do with a video of too few frames: "skip" counts it as unreadable, "repeat" holds its last frame.
        grid: Rows and columns of frames in the map.
        clips: Clips of a video whose scores are averaged in evaluation, spread evenly over it.
        crops: Crops of each of these clips, spread evenly over the longer side.
        size: Height and width of a frame in the map, in pixels.
        channels: 1 (grey), 3 (colour) or 4 (colour and transparency); frames are converted.
        fit: "crop" scales the shorter side to size / crop and cuts the centre; "squash" scales both sides to size.
        crop: Part of the scaled frame that "crop" keeps.
        interpolation: How to scale.
        mean: Subtracted from pixel values in 0..1, one number a channel.
        std: Divides the difference, one number a channel.
    """

    frames: int = 16
    sampling: Literal["dense", "uniform"] = "dense"
    stride: int = 4
    short: Literal["skip", "repeat"] = "skip"
    grid: tuple[int, int] = (4, 4)
    clips: int = 1
    crops: int = 1
    size: int = 224
    channels: int = 3
    fit: Literal["crop", "squash"] = "crop"
    crop: float = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    extensions: ClassVar[tuple[str, ...]] = (
        ".avi",
        ".gif",
        ".m4v",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".webm",
        ".webp",
        ".wmv",
    )

    def __post_init__(self) -> None:
        for name in ("frames", "stride", "clips", "crops"):
            if getattr(self, name) < 1:
                raise UserError(f"input.{name} is {getattr(self, name)}; expected at least 1")
        rows, columns = self.grid
        if rows * columns != self.frames:
            raise UserError(f"input.grid is {rows} x {columns}, input.frames is {self.frames}; expected their product")
        if self.crops > 1 and self.fit == "squash":
            raise UserError(f"input.crops is {self.crops}, but fit 'squash' shows the whole frame; expected 1")
        self.image  # noqa: B018 - checks channels, mean and std

    @cached_property
    def image(self) -> ImageInput:
        """How each frame is treated."""
        return ImageInput(
            self.size, self.channels, self.fit, self.crop, self.interpolation, tuple(self.mean), tuple(self.std)
        )

    @property
    def span(self) -> int:
        """Frames that a video must have."""
        return self.frames if self.sampling == "uniform" else (self.frames - 1) * self.stride + 1

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (channels, H, W) of the map."""
        rows, columns = self.grid
        return self.channels, rows * self.size, columns * self.size

    def read(self, item: Path | ShardFile) -> Frames:
        """Find the frames of a file, without decoding any.

        Raises:
            UserError: There are none, the file is cut off, or it is shorter than a clip and ``short`` is "skip".
        """
        frames = open_frames(item)
        if len(frames) < self.span and self.short == "skip":
            every = f", {self.stride} apart, take {self.span}" if self.sampling == "dense" else ""
            raise UserError(
                f"too short: {len(frames)} frames, but the {self.frames} of a clip{every};"
                " input.short repeat would hold the last frame"
            )
        return frames

    def numbers(self, count: int, offset: float) -> np.ndarray:
        """Which frames make a clip.

        Args:
            count: Frames of the video.
            offset: From 0 up to, but not including, 1: where among the possible clips this one lies.

        Returns:
            Frame numbers in the order of time, shape (frames,).
        """
        if self.sampling == "uniform":
            count = max(count, 1)
            return ((np.arange(self.frames) + offset) * (count / self.frames)).astype(int)
        start = int(offset * max(count - self.span + 1, 1))
        return np.minimum(start + np.arange(self.frames) * self.stride, count - 1)

    def clip(self, video: Frames, offset: float) -> Tensor:
        """Decode a clip.

        Args:
            video: The frames of a file.
            offset: As for :meth:`numbers`.

        Returns:
            8-bit pixels, shape (frames, channels, H, W).
        """
        pixels = video.take(self.numbers(len(video), offset).tolist(), MODES[self.channels])
        stacked = torch.from_numpy(np.ascontiguousarray(pixels))
        return tv_tensors.Video(stacked[:, None] if self.channels == 1 else stacked.permute(0, 3, 1, 2))

    def to_map(self, video: Frames) -> Tensor:
        """The map of the clip in the middle of a video.

        Args:
            video: The frames of a file.

        Returns:
            A float32 tensor of shape (channels, rows * size, columns * size).

        Raises:
            UserError: A frame cannot be decoded.
        """
        return self.tile(self.image.to_map(self.clip(video, 0.5)))

    def to_views(self, video: Frames) -> Tensor:
        """The maps of several clips and crops of a video, whose scores are to be averaged.

        Args:
            video: The frames of a file.

        Returns:
            A float32 tensor of shape (clips * crops, channels, rows * size, columns * size).

        Raises:
            UserError: A frame cannot be decoded.
        """
        finish = v2.Compose(self.image.finish())
        maps = []
        for number in range(self.clips):
            clip = self.clip(video, (number + 0.5) / self.clips)
            if self.crops == 1:
                maps.append(self.tile(self.image.to_map(clip)))
            else:
                maps += [self.tile(finish(crop)) for crop in self._crops(clip)]
        return torch.stack(maps)

    def _crops(self, clip: Tensor) -> list[Tensor]:
        scaled = tvf.resize(clip, [round(self.size / self.crop)], self.image.resampling)
        height, width = scaled.shape[-2:]
        places = (np.arange(self.crops) / (self.crops - 1)).tolist()
        if height > width:
            corners = [(round(p * (height - self.size)), (width - self.size) // 2) for p in places]
        else:
            corners = [((height - self.size) // 2, round(p * (width - self.size))) for p in places]
        return [tvf.crop(scaled, top, left, self.size, self.size) for top, left in corners]

    def tile(self, clip: Tensor) -> Tensor:
        """Lay frames side by side.

        Args:
            clip: Shape (frames, C, h, w).

        Returns:
            Shape (C, rows * h, columns * w).
        """
        rows, columns = self.grid
        _, channels, height, width = clip.shape
        tiles = clip.reshape(rows, columns, channels, height, width).permute(2, 0, 3, 1, 4)
        return tiles.reshape(channels, rows * height, columns * width).as_subclass(Tensor).contiguous()

    def untile(self, sample: Tensor) -> Tensor:
        """The frames (frames, C, h, w) of a map: what :meth:`tile` laid side by side."""
        rows, columns = self.grid
        channels, height, width = sample.shape
        tiles = sample.reshape(channels, rows, height // rows, columns, width // columns).permute(1, 3, 0, 2, 4)
        return tiles.flatten(0, 1)

    def panels(self, sample: Tensor) -> list[Panel]:
        """The frames as pictures again, in the order of time."""
        pictures = [panel for frame in self.untile(sample) for panel in self.image.panels(frame)]
        return [replace(panel, title=f"frame {i}") for i, panel in enumerate(pictures, 1)]

    def heat(self, weights: Tensor) -> list[np.ndarray]:
        """Weights of the map's numbers on the frames."""
        return [values for frame in self.untile(weights) for values in self.image.heat(frame)]


@dataclass
class VideoAugment(ImageAugment):  # noqa: D101 - it has the docstring of the settings that it takes over
    __doc__ = (ImageAugment.__doc__ or "").replace(
        "Random changes to training images;", "Random changes to training clips, the same for all frames of one;"
    )

    def bind(self, inputs: VideoInput) -> Callable[[Frames], Tensor]:  # type: ignore[override]
        """The training counterpart of ``inputs.to_map``: a random clip, changed."""
        return partial(_to_map, inputs, super().bind(inputs.image))

    def _policy(self, inputs: ImageInput) -> list[Any]:
        return [_FrameByFrame(policy) for policy in super()._policy(inputs)]


def _to_map(inputs: VideoInput, change: Callable[[Any], Tensor], video: Frames) -> Tensor:
    return inputs.tile(change(inputs.clip(video, torch.rand(()).item())))


@dataclass
class _FrameByFrame:
    """Applies a random change of pictures to all frames with the same random numbers."""

    change: Callable[[Image.Image], Image.Image]

    def __call__(self, clip: Tensor) -> Tensor:
        seed = int(torch.randint(2**31, ()))
        changed = []
        for frame in clip:
            with random_state(seed):
                changed.append(tvf.pil_to_tensor(self.change(tvf.to_pil_image(frame))))
        return tv_tensors.Video(torch.stack(changed))


MODALITY = Modality(VideoInput, VideoAugment)
