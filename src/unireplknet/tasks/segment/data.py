"""Images with a class for each pixel: where images and masks lie, and how they are split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unireplknet.data.files import find_files
from unireplknet.data.io import open_image
from unireplknet.data.split import SPLITS
from unireplknet.errors import UserError
from unireplknet.registry import Source
from unireplknet.tasks.dense.data import ImageSet, ImageSplit

IGNORE = -100
"""Label of pixels that count for nothing, as PyTorch's cross-entropy has it."""


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


class MaskSplit(ImageSplit[Pair]):
    """Images and masks that have not been read yet."""

    def learnt(self, item: Pair) -> object:
        """The size of the mask."""
        return 0 if item.mask is None else item.mask.stat().st_size


class Masked(ImageSet[MaskSplit]):
    """A data set of images with masks."""


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
    pictures: dict[Path, Path] = {}
    for file in find_files(images, extensions):
        other = pictures.setdefault(file.relative_to(images).with_suffix(""), file)
        if other != file:
            raise UserError(f"{other} and {file} are both for one mask; expected one image a name")
    labels = {file.relative_to(masks).with_suffix(""): file for file in find_files(masks, (".png",))}
    if not pictures:
        raise UserError(f"{images} has no files ending in {' '.join(extensions)}")
    if alone := [file for name, file in pictures.items() if name not in labels]:
        raise UserError(f"{alone[0]} has no mask in {masks} ({len(alone)} such images)")
    if alone := [file for name, file in labels.items() if name not in pictures]:
        raise UserError(f"{alone[0]} has no image in {images} ({len(alone)} such masks)")
    return MaskSplit([Pair(file, labels[name], classes) for name, file in pictures.items()])


def read_numbers(path: Path) -> np.ndarray:
    """The numbers in a mask, shape (H, W), int64.

    Raises:
        UserError: It is no mask.
    """
    with open_image(path) as file:
        if len(file.getbands()) > 1:
            raise UserError(f"the mask {path} is in colour ({file.mode}); expected a number a pixel, grey or palette")
        return np.asarray(file).astype(np.int64)


MASKS = Source(lambda path, inputs: load_masks(path, inputs.extensions))

ADE20K = Source(lambda path, inputs: load_ade20k(path, inputs.extensions))
