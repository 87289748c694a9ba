"""A modality is how a raw sample becomes a C x H x W map: file -> read -> to_map.

Each is a pair of dataclasses: the input (read, to_map) and the augmentation, whose ``bind(input)`` gives the training
counterpart of ``to_map``. The network never knows which modality it sees.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import Tensor

from unireplknet.modalities.audio import AudioAugment, AudioInput, load_speech_commands
from unireplknet.modalities.folder import Labelled, load_folder
from unireplknet.modalities.image import ImageAugment, ImageInput, load_digits, load_mnist
from unireplknet.modalities.lists import load_list


class Input(Protocol):
    """How a raw sample becomes a map."""

    extensions: ClassVar[tuple[str, ...]]
    channels: int

    def read(self, item: Any) -> Any:
        """Read a file or an in-memory item as a raw sample."""

    def to_map(self, raw: Any) -> Tensor:
        """The (channels, H, W) map of a raw sample, for evaluation."""


class Augment(Protocol):
    """How training changes samples."""

    def bind(self, inputs: Any) -> Callable[[Any], Tensor]:
        """The training counterpart of ``inputs.to_map``."""


MODALITIES: dict[str, tuple[type[Input], type[Augment]]] = {
    "image": (ImageInput, ImageAugment),
    "audio": (AudioInput, AudioAugment),
}

SOURCES: dict[str, Callable[[Path, Any], Labelled]] = {
    "folder": lambda path, inputs: load_folder(path, inputs.extensions),
    "list": lambda path, inputs: load_list(path),
    "digits": lambda path, inputs: load_digits(),
    "mnist": lambda path, inputs: load_mnist(path),
    "speechcommands": load_speech_commands,
}
