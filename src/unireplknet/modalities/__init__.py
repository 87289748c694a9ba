"""A modality is how a raw sample becomes a C x H x W map: file -> read -> to_map.

Each is a pair of dataclasses: the input (read, to_map) and the augmentation, whose ``bind(input)`` gives the training
counterpart of ``to_map``. The network never knows which modality it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from unireplknet.modalities.emoji import load_emoji
from unireplknet.modalities.folder import Labelled, load_folder
from unireplknet.modalities.image import ImageAugment, ImageInput, load_digits, load_mnist
from unireplknet.modalities.series import SeriesAugment, SeriesInput, load_series, load_ts
from unireplknet.modalities.shards import load_shards
from unireplknet.modalities.windows import Windowed


class Input(Protocol):
    """How a raw sample becomes a map."""

    extensions: ClassVar[tuple[str, ...]]
    channels: int

    def read(self, item: Any) -> Any:
        """Read a file (a path, or an open :class:`MemberFile` of an archive) or an array as a raw sample."""

    def to_map(self, raw: Any) -> Tensor:
        """The (channels, H, W) map of a raw sample, for evaluation."""


class Augment(Protocol):
    """How training changes samples."""

    def bind(self, inputs: Any) -> Callable[[Any], Tensor]:
        """The training counterpart of ``inputs.to_map``."""


MODALITIES: dict[str, tuple[type[Input], type[Augment]]] = {
    "image": (ImageInput, ImageAugment),
    "series": (SeriesInput, SeriesAugment),
}

SOURCES: dict[str, Callable[[Path, Any], Labelled | Windowed]] = {
    "folder": lambda path, inputs: load_folder(path, inputs.extensions),
    "shards": lambda path, inputs: load_shards(path, inputs.extensions),
    "digits": lambda path, inputs: load_digits(),
    "emoji": lambda path, inputs: load_emoji(path),
    "mnist": lambda path, inputs: load_mnist(path),
    "series": load_series,
    "ts": lambda path, inputs: load_ts(path),
}
