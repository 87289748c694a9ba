"""What data sets of images share in which more is to be learnt of an image than its class."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.split import random_division, split_parts
from unireplknet.errors import UserError

I = TypeVar("I", bound=Any)  # noqa: E741
"""An item: a dataclass with an image."""

S = TypeVar("S", bound="ImageSplit[Any]")

D = TypeVar("D", bound="ImageSet[Any]")


@dataclass(frozen=True)
class ImageSplit(ABC, Generic[I]):
    """Images, and what is to be learnt of them, that have not been read yet.

    Attributes:
        items: The images.
    """

    items: Sequence[I]

    def __len__(self) -> int:
        return len(self.items)

    def take(self, indices: np.ndarray) -> Self:
        """Return the images at ``indices``, in that order."""
        return replace(self, items=[self.items[i] for i in indices])

    def label(self, index: int) -> Tensor:
        """Nothing: what is to be learnt is read and changed together with the image."""
        return torch.tensor(0)

    def name(self, index: int) -> str:
        """Path of the image."""
        return str(self.items[index].image)

    def fingerprint(self) -> str:
        """A short hash of names and of what is to be learnt, to notice that a split has changed since a run."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(f"{item.image.name} {self.learnt(item)}\n".encode())
        return digest.hexdigest()[:16]

    @abstractmethod
    def learnt(self, item: I) -> object:
        """What tells an item from one of which other things are to be learnt."""


@dataclass(frozen=True)
class ImageSet(Generic[S]):
    """A data set of images.

    Attributes:
        classes: Class names; a label is an index into them.
        splits: ``{"all": ...}`` where the source has no split of its own, otherwise some of train, val, test.
    """

    classes: tuple[str, ...]
    splits: dict[str, S]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs: the classes."""
        return self.classes

    def split(self: D, val_fraction: float, test_fraction: float, seed: int) -> D:
        """The samples under the keys train, val and, where there is one, test.

        Args:
            val_fraction: Part of the training samples to choose the epoch with, unless the source has a val split.
            test_fraction: Part of the whole to test with, unless the source is split already.
            seed: Seed of both divisions.

        Raises:
            UserError: There are too few images.
        """

        def divide(part: S, fraction: float, name: str) -> tuple[S, S]:
            if len(part) < 2:
                raise UserError(f"there are {len(part)} image(s): at least 2 are needed to set some aside for {name}")
            kept, taken = random_division(len(part), fraction, seed)
            return part.take(kept), part.take(taken)

        return replace(self, splits=split_parts(self.splits, divide, val_fraction, test_fraction))
