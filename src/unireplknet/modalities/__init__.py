"""A modality is how a raw sample becomes a C x H x W map: file -> read -> to_map.

Each is a pair of dataclasses: the input (read, to_map) and the augmentation, whose ``bind(input)`` gives the training
counterpart of ``to_map``. The network never knows which modality it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from unireplknet.data.dataset import Batch, collate
from unireplknet.modalities.audio import AudioAugment, AudioInput
from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.modalities.points import PointsAugment, PointsInput
from unireplknet.modalities.series import SeriesAugment, SeriesInput
from unireplknet.modalities.video import VideoAugment, VideoInput
from unireplknet.registry import SOURCES
from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput
from unireplknet.tasks.segment.inputs import SegmentAugment, SegmentInput

__all__ = ["MODALITIES", "SOURCES", "Augment", "Input", "collate_of", "views_of"]


class Input(Protocol):
    """How a raw sample becomes a map."""

    extensions: ClassVar[tuple[str, ...]]

    @property
    def channels(self) -> int:
        """Channels of the map."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (channels, H, W) of the map for evaluation."""

    def read(self, item: Any) -> Any:
        """Read a file (a path, or an open :class:`ShardFile` of an archive) or an array as a raw sample."""

    def to_map(self, raw: Any) -> Any:
        """The (channels, H, W) map of a raw sample, for evaluation; with a label that belongs to it, where it does."""


def views_of(inputs: Input) -> Callable[[Any], Any]:
    """How a sample is looked at when it counts: from several sides, where the input has ``to_views``.

    ``to_views(raw)`` gives maps of shape (V, channels, H, W), whose probabilities are averaged. Without it the one map
    of ``to_map`` serves, of shape (channels, H, W).
    """
    return getattr(inputs, "to_views", inputs.to_map)


def collate_of(inputs: Input) -> Callable[[Any], Batch]:
    """How samples become a batch: stacked, unless the input has a ``collate`` of its own."""
    return getattr(inputs, "collate", collate)


class Augment(Protocol):
    """How training changes samples."""

    def bind(self, inputs: Any) -> Callable[[Any], Any]:
        """The training counterpart of ``inputs.to_map``."""


MODALITIES: dict[str, tuple[type[Input], type[Augment]]] = {
    "image": (ImageInput, ImageAugment),
    "audio": (AudioInput, AudioAugment),
    "detect": (DetectInput, DetectAugment),
    "points": (PointsInput, PointsAugment),
    "segment": (SegmentInput, SegmentAugment),
    "series": (SeriesInput, SeriesAugment),
    "video": (VideoInput, VideoAugment),
}
