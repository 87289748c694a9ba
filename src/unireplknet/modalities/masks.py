"""Images with a class for each pixel: where images and masks lie, and how they are split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from unireplknet.errors import UserError
from unireplknet.modalities.folder import SPLITS, find_files

IGNORE = -100
"""Label of pixels that count for nothing, as PyTorch's cross-entropy has it."""


S = TypeVar("S", bound=Any)
"""A split: a dataclass with items."""


@dataclass(frozen=True)
class Pair:
    """An image and its mask.

    Attributes:
        image: File of the image.
        mask: File of the mask; None where there is only an image to be segmented.
        classes: How many classes there are, to notice wrong numbers in the mask.
    """

    image: Path
    mask: Path | None = None
    classes: int = 0


@dataclass(frozen=True)
class MaskSplit:
    """Images and masks that have not been read yet.

    Attributes:
        items: The files.
    """

    items: Sequence[Pair]

    def __len__(self) -> int:
        return len(self.items)

    def label(self, index: int) -> Tensor:
        """Nothing: the mask is read and changed together with the image."""
        return torch.tensor(IGNORE)

    def name(self, index: int) -> str:
        """Path of the image."""
        return str(self.items[index].image)

    def fingerprint(self) -> str:
        """A short hash of names and sizes of the masks, to notice that a split has changed since a run."""
        digest = hashlib.sha256()
        for pair in self.items:
            size = 0 if pair.mask is None else pair.mask.stat().st_size
            digest.update(f"{pair.image.name} {size}\n".encode())
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Masked:
    """A data set of images with masks.

    Attributes:
        classes: Class names; a label is an index into them.
        splits: ``{"all": ...}`` where the source has no split of its own, otherwise some of train, val, test.
    """

    classes: tuple[str, ...]
    splits: dict[str, MaskSplit]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs: the classes."""
        return self.classes

    def divided(self, val_fraction: float, test_fraction: float, seed: int) -> Masked:
        """The samples under the keys train, val and, where there is one, test.

        Args:
            val_fraction: Part of the training samples to choose the epoch with, unless the source has a val split.
            test_fraction: Part of the whole to test with, unless the source is split already.
            seed: Seed of both divisions.

        Raises:
            UserError: There are too few images.
        """
        return Masked(self.classes, divide_images(self.splits, val_fraction, test_fraction, seed))


def divide_images(splits: dict[str, S], val_fraction: float, test_fraction: float, seed: int) -> dict[str, S]:
    """Give images a train and a val split, and a test split unless their own division leaves it out.

    Args:
        splits: As found: ``{"all": ...}``, or some of train, val, test.
        val_fraction: Part of the training samples to choose the epoch with, unless there is a val split.
        test_fraction: Part of the whole to test with, unless there is a division.
        seed: Seed of both divisions.

    Raises:
        UserError: There are too few images.
    """
    splits = dict(splits)
    if "all" in splits:
        splits["train"], splits["test"] = _divide(splits.pop("all"), test_fraction, seed, "test")
    if "val" not in splits:
        splits["train"], splits["val"] = _divide(splits["train"], val_fraction, seed, "val")
    return {name: splits[name] for name in SPLITS if name in splits}


def _divide(split: S, fraction: float, seed: int, name: str) -> tuple[S, S]:
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise UserError(f"data.{name}_fraction is {fraction}; expected a number between 0 and 1")
    if len(split.items) < 2:
        raise UserError(f"there are {len(split.items)} image(s): at least 2 are needed to set some aside for {name}")
    parts = train_test_split(np.arange(len(split.items)), test_size=fraction, random_state=seed)
    kept, taken = (replace(split, items=[split.items[i] for i in part]) for part in parts)
    return kept, taken


def load_masks(path: str | Path, extensions: Sequence[str]) -> Masked:
    """Find images and the masks of the same names.

    Args:
        path: A folder with ``classes.txt`` (a class name a line, in the order of the numbers in the masks) and
            ``images/NAME.jpg``, ``masks/NAME.png``; or these two folders in each of ``train``, ``val`` and ``test``,
            of which the last two may be missing.
        extensions: File name endings of images.

    Returns:
        The classes and the splits that there are.

    Raises:
        UserError: The folder is not like that, or an image or a mask stands alone.
    """
    root = Path(path)
    names = root / "classes.txt"
    if not names.is_file():
        raise UserError(f"{names} is missing: a class name a line, in the order of the numbers in the masks")
    classes = tuple(line.strip() for line in names.read_text(encoding="utf-8").splitlines() if line.strip())
    if len(classes) < 2:
        raise UserError(f"{names} names {len(classes)} class(es); at least 2 are needed")
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if "train" not in folders:
        folders = {"all": root}
    return Masked(classes, {n: _pairs(f / "images", f / "masks", extensions, len(classes)) for n, f in folders.items()})


def load_ade20k(path: str | Path, extensions: Sequence[str]) -> Masked:
    """Find the images and masks of ADE20K (ADEChallengeData2016).

    Args:
        path: The folder that holds ``images`` and ``annotations``, each with ``training`` and ``validation``, and
            ``objectInfo150.txt``, whose last column names the classes.
        extensions: File name endings of images.

    Returns:
        150 classes, and the splits train and val.

    Raises:
        UserError: The folder is not like that, or an image or a mask stands alone.
    """
    root, table = Path(path), Path(path) / "objectInfo150.txt"
    if not table.is_file():
        raise UserError(f"{table} is missing: the names of ADE20K's classes")
    lines = table.read_text(encoding="utf-8").splitlines()[1:]
    classes = tuple(line.split("\t")[-1].strip() for line in lines if line.strip())
    folders = {"train": "training", "val": "validation"}
    return Masked(
        classes,
        {
            n: _pairs(root / "images" / f, root / "annotations" / f, extensions, len(classes))
            for n, f in folders.items()
        },
    )


def _pairs(images: Path, masks: Path, extensions: Sequence[str], classes: int) -> MaskSplit:
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder; expected {images}/NAME.jpg and {masks}/NAME.png")
    pictures = {file.relative_to(images).with_suffix(""): file for file in find_files(images, extensions)}
    labels = {file.relative_to(masks).with_suffix(""): file for file in find_files(masks, (".png",))}
    if not pictures:
        raise UserError(f"{images} has no files ending in {' '.join(extensions)}")
    if alone := [file for name, file in pictures.items() if name not in labels]:
        raise UserError(f"{alone[0]} has no mask in {masks} ({len(alone)} such images)")
    if alone := [file for name, file in labels.items() if name not in pictures]:
        raise UserError(f"{alone[0]} has no image in {images} ({len(alone)} such masks)")
    return MaskSplit([Pair(file, labels[name], classes) for name, file in pictures.items()])
