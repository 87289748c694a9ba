"""Data sets that have not been read yet, and how they are split for training, choosing an epoch, and testing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.shards.samples import ShardSample, ShardSamples
from unireplknet.errors import UserError

SPLITS = ("train", "val", "test")

P = TypeVar("P")
"""A part of a data set, such as a split."""


class DataSet(Protocol):
    """What training needs to know of a data set, whatever its labels are."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the network's outputs."""

    @property
    def splits(self) -> Mapping[str, Any]:
        """``{"all": ...}`` if the source does not define splits, otherwise some of train, val, test."""

    def split(self, val_fraction: float, test_fraction: float, seed: int) -> DataSet:
        """Return the same samples as train, val and, where there is one, test.

        Args:
            val_fraction: Fraction of the training samples for val, unless there is a val split.
            test_fraction: Fraction of all samples for test, unless there are splits already.
            seed: Seed of the divisions.
        """


class AnySplit(Protocol):
    """What a loader needs to know of a split, whatever its labels are."""

    @property
    def items(self) -> Any:
        """One raw sample for each index, not read yet."""

    def __len__(self) -> int: ...

    def label(self, index: int) -> Tensor:
        """Return the label of a sample."""

    def name(self, index: int) -> str:
        """Return what to call a sample in a message."""

    def fingerprint(self) -> str:
        """Return a short hash of which samples these are."""


@dataclass(frozen=True)
class Split:
    """Samples with classes as labels.

    Attributes:
        items: One file, shard sample, or in-memory array per sample.
        labels: Class index of each sample, int64, shape (N,); for multi-label data 1 for each class of a sample and 0
            for the others, float32, shape (N, classes).
        groups: What each sample is a variant of, shape (N,); samples of a group stay together when the split is
            divided. None if every sample stands alone.
    """

    items: Sequence[Any]
    labels: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: np.ndarray) -> Split:
        """Return the samples at ``indices``, in that order."""
        items = self.items
        taken = items.take(indices) if isinstance(items, ShardSamples) else [items[i] for i in indices]
        return Split(taken, self.labels[indices], None if self.groups is None else self.groups[indices])

    def label(self, index: int) -> Tensor:
        """Return the label of a sample: its class index, or for multi-label data its row of the table."""
        return torch.as_tensor(self.labels[index])

    def name(self, index: int) -> str:
        """Return what to call a sample in a message: its path, or its index if it has none."""
        item = self.items[index]
        return str(item) if isinstance(item, Path | ShardSample) else f"sample {index}"

    def fingerprint(self) -> str:
        """Return a short hash of names and labels, to notice that a split has changed since a run."""
        digest = hashlib.sha256(np.ascontiguousarray(self.labels).tobytes())
        for item in self.items:
            # Names relative to the class folder: a tree that was moved as a whole is still the same data.
            named = isinstance(item, Path | ShardSample)
            digest.update(item.name.encode() if named else np.ascontiguousarray(item).tobytes())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class LabeledData:
    """A data set with classes as labels.

    Attributes:
        classes: Class names; a label is an index into them.
        splits: ``{"all": ...}`` if the source does not define splits, otherwise some of train, val, test.
    """

    classes: tuple[str, ...]
    splits: dict[str, Split]

    @staticmethod
    def from_names(
        samples: Mapping[str, tuple[Sequence[Any], Sequence[str]]],
        classes: Sequence[str] = (),
        places: Mapping[str, str | Path] | None = None,
    ) -> LabeledData:
        """Build a data set from the class name of each sample.

        Args:
            samples: Items and their class names for each split; the first split defines the classes.
            classes: Class names in the order of the labels; by default those of the first split, sorted.
            places: Where each split comes from, for messages; by default its name.

        Raises:
            UserError: There are fewer than 2 classes, or a split has a class that the first one does not have.
        """
        places = places or {}
        first = next(iter(samples))
        classes = tuple(classes) or tuple(sorted(set(samples[first][1])))
        index = {name: i for i, name in enumerate(classes)}
        for split, (_, names) in samples.items():
            if unknown := set(names) - set(classes):
                where, known = places.get(split, split), places.get(first, first)
                raise UserError(f"class {min(unknown)!r} in {where} is missing from {known}")
        if len(classes) < 2:
            raise UserError(f"{places.get(first, first)} has {len(classes)} class(es); at least 2 are needed")
        return LabeledData(
            classes,
            {
                split: Split(list(items), np.array([index[name] for name in names], dtype=np.int64))
                for split, (items, names) in samples.items()
            },
        )

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have more than one class."""
        return any(split.labels.ndim == 2 for split in self.splits.values())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs: the classes."""
        return self.classes

    def split(self, val_fraction: float, test_fraction: float, seed: int) -> LabeledData:
        """Return the same samples as train, val and, where there is one, test; see :func:`split_parts`.

        Parts are stratified by class unless the data are multi-label. Groups are not divided.

        Args:
            val_fraction: Fraction of the training samples for val, unless the source has a val split.
            test_fraction: Fraction of all samples for test, unless the source defines splits.
            seed: Seed of both divisions; independent of the seed of training.

        Raises:
            UserError: A class has too few samples.
        """

        def divide(part: Split, fraction: float, name: str) -> tuple[Split, Split]:
            return _divide(part, fraction, seed, self.classes, name)

        return replace(self, splits=split_parts(self.splits, divide, val_fraction, test_fraction))


def split_parts(
    parts: Mapping[str, P], divide: Callable[[P, float, str], tuple[P, P]], val_fraction: float, test_fraction: float
) -> dict[str, P]:
    """Give every data set a train and a val part, and a test part unless its own parts leave it out.

    Test is taken from the whole if the source does not define parts; val is always taken from what is left for
    training, so that choosing an epoch never uses test samples.

    Args:
        parts: ``{"all": ...}``, or some of train, val, test.
        divide: Divides a part into what is kept and what is taken, given the fraction to take and the name of the new
            part.
        val_fraction: Fraction of train to take as val, unless there is a val part.
        test_fraction: Fraction of all to take as test, unless there are parts already.

    Raises:
        UserError: A fraction that is needed is not between 0 and 1.
    """
    fractions = {"val": val_fraction, "test": test_fraction}

    def take(part: P, name: str) -> tuple[P, P]:
        if not 0 < fractions[name] < 1:
            raise UserError(f"data.{name}_fraction is {fractions[name]}; expected a number between 0 and 1")
        return divide(part, fractions[name], name)

    made = dict(parts)
    if "all" in made:
        made["train"], made["test"] = take(made.pop("all"), "test")
    if "val" not in made:
        made["train"], made["val"] = take(made["train"], "val")
    return {name: made[name] for name in SPLITS if name in made}


def random_division(
    count: int, fraction: float, seed: int, stratify: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divide samples at random.

    Args:
        count: Number of samples.
        fraction: Fraction to take.
        seed: Seed of the division.
        stratify: Class of each sample, shape (count,), whose frequencies both parts are to have.

    Returns:
        Indices of the samples that are kept and of those that are taken.
    """
    from sklearn.model_selection import train_test_split

    kept, taken = train_test_split(np.arange(count), test_size=fraction, stratify=stratify, random_state=seed)
    return kept, taken


def _divide(split: Split, fraction: float, seed: int, classes: Sequence[str], name: str) -> tuple[Split, Split]:
    if split.labels.ndim == 2:
        kept, taken = random_division(len(split), fraction, seed)
        return split.take(kept), split.take(taken)
    noun = "sample" if split.groups is None else "group"
    groups = np.arange(len(split)) if split.groups is None else split.groups
    _, first, group = np.unique(groups, return_index=True, return_inverse=True)
    labels = split.labels[first]
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        small = classes[int(counts.argmin())]
        raise UserError(
            f"class {small!r} has {counts.min()} {noun}(s): at least 2 are needed to set some aside for {name}"
        )
    if min(fraction, 1 - fraction) * len(labels) < len(classes):
        raise UserError(
            f"data.{name}_fraction {fraction} of {len(labels)} {noun}s leaves fewer than one per class"
            f" ({len(classes)} classes); increase it to {len(classes) / len(labels):.2g} or more"
        )
    kept, taken = random_division(len(labels), fraction, seed, labels)
    return split.take(_samples_of(kept, group)), split.take(_samples_of(taken, group))


def _samples_of(groups: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Indices of the samples of some groups, in the order of the groups; ``group`` is the group of each sample."""
    rank = np.full(group.max() + 1, -1)
    rank[groups] = np.arange(len(groups))
    ranks = rank[group]
    return np.argsort(ranks, kind="stable")[np.count_nonzero(ranks < 0) :]
