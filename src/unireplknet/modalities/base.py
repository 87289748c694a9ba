"""What a modality is made of: an input and an augmentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from unireplknet.data.dataset import Batch, collate


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
