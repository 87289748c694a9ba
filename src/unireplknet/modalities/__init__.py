"""A modality is how a raw sample becomes a C x H x W map: file -> read -> to_map.

Each is a pair of dataclasses: the input (read, to_map) and the augmentation, whose ``bind(input)`` gives the training
counterpart of ``to_map``. The network never knows which modality it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from unireplknet.data.dataset import Batch, collate
from unireplknet.data.shards.reading import load_shards
from unireplknet.data.sources.digits import load_digits
from unireplknet.data.sources.folder import load_folder, load_grouped
from unireplknet.data.sources.kinetics import load_kinetics
from unireplknet.data.sources.lists import load_list
from unireplknet.data.sources.mnist import load_mnist
from unireplknet.data.sources.modelnet import load_modelnet
from unireplknet.data.sources.scanobjectnn import load_scanobjectnn
from unireplknet.data.sources.speech_commands import load_speech_commands
from unireplknet.data.sources.ts import load_ts
from unireplknet.data.split import LabeledData
from unireplknet.modalities.audio import AudioAugment, AudioInput
from unireplknet.modalities.emoji import load_emoji
from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.modalities.points import PointsAugment, PointsInput
from unireplknet.modalities.series import SeriesAugment, SeriesInput, load_series
from unireplknet.modalities.video import VideoAugment, VideoInput
from unireplknet.tasks.detect.data import Boxed, load_box_table, load_coco
from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput
from unireplknet.tasks.forecast.data import ForecastData
from unireplknet.tasks.segment.data import Masked, load_ade20k, load_masks
from unireplknet.tasks.segment.inputs import SegmentAugment, SegmentInput


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

SOURCES: dict[str, Callable[[Path, Any], LabeledData | Masked | Boxed | ForecastData]] = {
    "folder": lambda path, inputs: load_folder(path, inputs.extensions),
    "shards": lambda path, inputs: load_shards(path, inputs.extensions),
    "grouped": lambda path, inputs: load_grouped(path, inputs.extensions),
    "list": lambda path, inputs: load_list(path),
    "digits": lambda path, inputs: load_digits(),
    "emoji": lambda path, inputs: load_emoji(path),
    "masks": lambda path, inputs: load_masks(path, inputs.extensions),
    "ade20k": lambda path, inputs: load_ade20k(path, inputs.extensions),
    "coco": lambda path, inputs: load_coco(path, inputs.masks),
    "box_table": lambda path, inputs: load_box_table(path, inputs.masks),
    "mnist": lambda path, inputs: load_mnist(path),
    "modelnet": lambda path, inputs: load_modelnet(path, inputs.extensions),
    "scanobjectnn": lambda path, inputs: load_scanobjectnn(path),
    "kinetics": lambda path, inputs: load_kinetics(path, inputs.extensions),
    "speechcommands": lambda path, inputs: load_speech_commands(path, inputs.extensions),
    "series": load_series,
    "ts": lambda path, inputs: load_ts(path),
}

BUILT_IN = {"digits"}
"""Sources that need no path."""
