"""Labelled samples of any modality: where they lie, how they are split, and how they become batches of maps."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.shards.samples import Member, Members
from unireplknet.errors import UserError

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Labelled samples that have not been read yet.

    Attributes:
        items: One file, member of an archive, or in-memory array a sample.
        labels: Class index of each sample, int64, shape (N,); where a sample may have several classes, a 1 for each
            of them and a 0 for the others, float32, shape (N, classes).
        groups: What each sample is a variant of, shape (N,): equal ones stay together when the split is divided. None
            where every sample stands alone.
    """

    items: Sequence[Any]
    labels: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """The samples at ``indices``, in that order."""
        items = self.items
        taken = items.take(indices) if isinstance(items, Members) else [items[i] for i in indices]
        return Split(taken, self.labels[indices], None if self.groups is None else self.groups[indices])

    def label(self, index: int) -> Tensor:
        """What is to be learnt of a sample."""
        return torch.as_tensor(self.labels[index])

    def name(self, index: int) -> str:
        """What to call a sample in a message: its path, or its number where it has none."""
        item = self.items[index]
        return str(item) if isinstance(item, Path | Member) else f"sample {index}"

    def fingerprint(self) -> str:
        """A short hash of which samples these are, to notice that a split has changed since a run."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        for item in self.items:
            # Names relative to the class folder: a tree that was moved as a whole is still the same data.
            named = isinstance(item, Path | Member)
            digest.update(item.name.encode() if named else np.ascontiguousarray(item).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Labelled:
    """A labelled data set.

    Attributes:
        classes: Class names; a label is an index into them.
        splits: ``{"all": ...}`` where the source has no split of its own, otherwise some of train, val, test.
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]

    @property
    def several(self) -> bool:
        """Whether a sample may have several classes."""
        return any(split.labels.ndim == 2 for split in self.splits.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs: the classes."""
        return self.classes

    def divided(self, val_fraction: float, test_fraction: float, seed: int) -> Labelled:
        """The samples under the keys train, val and test; see :func:`split_data`."""
        return split_data(self, val_fraction, test_fraction, seed)


def split_data(data: Labelled, val_fraction: float, test_fraction: float, seed: int) -> Labelled:
    """Give every data set a train and a val split, and a test split unless its own split leaves it out.

    Stratified by class, unless samples have several, and by the number of groups where there are groups, which are not
    divided. Test is taken from the whole where the source has no split; val is always taken from what is left for
    training, so that choosing an epoch never looks at the test samples.

    Args:
        data: The source as loaded.
        val_fraction: Part of the training samples to choose the epoch with, unless the source has a val split.
        test_fraction: Part of the whole to test with, unless the source is split already.
        seed: Seed of both divisions; independent of the seed of training.

    Returns:
        The same samples under the keys train, val and, where there is one, test.

    Raises:
        UserError: A class is too small to be divided.
    """
    splits = dict(data.splits)
    if "all" in splits:
        splits["train"], splits["test"] = _divide(splits.pop("all"), test_fraction, seed, data.classes, "test")
    if "val" not in splits:
        splits["train"], splits["val"] = _divide(splits["train"], val_fraction, seed, data.classes, "val")
    return Labelled(data.classes, {name: splits[name] for name in SPLITS if name in splits})


def _divide(split: Split, fraction: float, seed: int, classes: Sequence[str], name: str) -> tuple[Split, Split]:
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise UserError(f"data.{name}_fraction is {fraction}; expected a number between 0 and 1")
    if split.labels.ndim == 2:
        kept, taken = train_test_split(np.arange(len(split)), test_size=fraction, random_state=seed)
        return split.take(kept), split.take(taken)
    noun = "sample" if split.groups is None else "group"
    groups = np.arange(len(split)) if split.groups is None else split.groups
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    labels = split.labels[first]
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        small = classes[int(counts.argmin())]
        raise UserError(
            f"class {small!r} has {counts.min()} {noun}(s): at least 2 are needed to set some aside for {name}"
        )
    if min(fraction, 1 - fraction) * len(labels) < len(classes):
        raise UserError(
            f"data.{name}_fraction {fraction} of {len(labels)} {noun}s leaves fewer than one a class"
            f" ({len(classes)} classes); raise it to {len(classes) / len(labels):.2g} or more"
        )
    kept, taken = train_test_split(np.arange(len(labels)), test_size=fraction, stratify=labels, random_state=seed)
    return split.take(_samples_of(kept, member)), split.take(_samples_of(taken, member))


def _samples_of(groups: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Indices of the samples of some groups, in the order of the groups; ``member`` is the group of each sample."""
    rank = np.full(member.max() + 1, -1)
    rank[groups] = np.arange(len(groups))
    ranks = rank[member]
    return np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]


class AnySplit(Protocol):
    """What a loader needs to know of a split, whatever is to be learnt of it."""

    @property
    def items(self) -> Any:
        """By index, one raw sample each, not read yet."""

    def __len__(self) -> int: ...

    def label(self, index: int) -> Tensor:
        """What is to be learnt of a sample."""

    def name(self, index: int) -> str:
        """What to call a sample in a message."""

    def fingerprint(self) -> str:
        """A short hash of which samples these are."""
