"""What data sets of images share in which more is to be learnt of an image than its class."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.split import SPLITS
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

    def divided(self: D, val_fraction: float, test_fraction: float, seed: int) -> D:
        """The samples under the keys train, val and, where there is one, test.

        Args:
            val_fraction: Part of the training samples to choose the epoch with, unless the source has a val split.
            test_fraction: Part of the whole to test with, unless the source is split already.
            seed: Seed of both divisions.

        Raises:
            UserError: There are too few images.
        """
        splits = dict(self.splits)
        if "all" in splits:
            splits["train"], splits["test"] = _divide(splits.pop("all"), test_fraction, seed, "test")
        if "val" not in splits:
            splits["train"], splits["val"] = _divide(splits["train"], val_fraction, seed, "val")
        return replace(self, splits={name: splits[name] for name in SPLITS if name in splits})


def _divide(split: S, fraction: float, seed: int, name: str) -> tuple[S, S]:
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise UserError(f"data.{name}_fraction is {fraction}; expected a number between 0 and 1")
    if len(split.items) < 2:
        raise UserError(f"there are {len(split.items)} image(s): at least 2 are needed to set some aside for {name}")
    parts = train_test_split(np.arange(len(split.items)), test_size=fraction, random_state=seed)
    kept, taken = (replace(split, items=[split.items[i] for i in part]) for part in parts)
    return kept, taken
