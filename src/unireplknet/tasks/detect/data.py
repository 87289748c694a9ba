"""Images with boxes around objects: where images and boxes lie, and how they are split."""

from __future__ import annotations

import csv
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet.data.split import SPLITS
from unireplknet.errors import UserError, shorten
from unireplknet.registry import Source
from unireplknet.tasks.dense.data import ImageSet, ImageSplit

logger = logging.getLogger(__name__)

PARTS = {split: split for split in SPLITS} | {"default": "all"}
"""What names of tables begin with, and the splits that they are for."""

COLUMNS = ("file", "x1", "y1", "x2", "y2", "class")


@dataclass(frozen=True)
class Box:
    """One object of an image.

    Attributes:
        corners: Left, top, right and bottom in pixels.
        label: Index of its class.
        crowd: Whether it is a group that nobody has counted, which is neither learnt nor missed.
        area: Pixels of it, by which COCO tells small objects from large ones.
        outline: Its mask in COCO's form, polygons or run lengths, as JSON: tens of millions of numbers would take
            gigabytes, in each loader worker again. Empty where no masks are wanted.
    """

    corners: tuple[float, float, float, float]
    label: int
    crowd: bool = False
    area: float = 0.0
    outline: str = ""


@dataclass(frozen=True)
class Objects:
    """An image and what is to be found in it.

    Attributes:
        image: File of the image.
        boxes: Its objects; none where there is nothing to be found.
        size: Width and height to which the boxes belong; None where that is not said.
    """

    image: Path
    boxes: tuple[Box, ...] = ()
    size: tuple[int, int] | None = None


class BoxSplit(ImageSplit[Objects]):
    """Images and boxes that have not been read yet."""

    def learnt(self, item: Objects) -> object:
        """The boxes, and their outlines where there are any."""
        return [(box.corners, box.label, box.crowd, box.outline)[: 4 if box.outline else 3] for box in item.boxes]


class Boxed(ImageSet[BoxSplit]):
    """A data set of images with boxes."""

    def split(self, val_fraction: float, test_fraction: float, seed: int) -> Boxed:
        """As of :class:`ImageSet`.

        Args:
            val_fraction: Part of the training samples to choose the epoch with, unless the source has a val split.
            test_fraction: Part of the whole to test with, unless the source is split already.
            seed: Seed of both divisions.

        Raises:
            UserError: There are too few images, or a part has no boxes.
        """
        made = super().split(val_fraction, test_fraction, seed)
        for name, split in made.splits.items():
            if not any(not box.crowd for item in split.items for box in item.boxes):
                raise UserError(f"none of the {len(split)} images of the {name} split has a box")
        return made


def load_coco(path: str | Path, masks: bool = False) -> Boxed:
    """Find images and the boxes of COCO's tables.

    Images without annotations have nothing to be found in them, and are kept. Boxes without an area inside the image,
    and where masks are wanted polygons of less than three corners, are left out, counted and named in the log.

    Args:
        path: A folder with ``annotations/instances_NAME.json`` and the images in ``NAME``, ``images/NAME`` or
            ``images``, where NAME begins with train or val (or test), as COCO unpacks, or is default, as CVAT exports
            what is not divided; or with ``instances.json`` and ``images`` in each of ``train``, ``val`` and ``test``,
            of which the last two may be missing; or with just these two.
        masks: Whether every object has to have an outline.

    Returns:
        The classes of the first table by their numbers, and the splits that there are.

    Raises:
        UserError: The folder or a table is not like that, or none of the images is there.
    """
    names: tuple[str, ...] = ()
    splits: dict[str, BoxSplit] = {}
    for split, (table, folder) in _coco_tables(Path(path)).items():
        content = _read_json(table)
        if not splits:
            classes = _categories(content, table)
            if len(set(classes.values())) < len(classes):
                raise UserError(f"{table} names a category twice")
            names = tuple(name for _, name in sorted(classes.items()))
        splits[split] = _read_coco(content, table, folder, names, masks)
    return Boxed(names, splits)


def _coco_tables(root: Path) -> dict[str, tuple[Path, Path]]:
    """Table and folder of images of each split, train first."""
    found: dict[str, tuple[Path, Path]] = {}
    for table in sorted((root / "annotations").glob("instances_*.json")):
        name = table.stem.removeprefix("instances_")
        for split in (split for start, split in PARTS.items() if name.lower().startswith(start)):
            if split in found:
                raise UserError(f"{found[split][0]} and {table} are both for {split}; expected one")
            images = [folder for folder in (root / name, root / "images" / name) if folder.is_dir()]
            found[split] = table, (images or [root / "images"])[0]
    if "all" in found and len(found) > 1:
        raise UserError(f"{found['all'][0]} stands beside tables of parts; expected one whole, or parts")
    if not found:
        folders = {split: root / split for split in SPLITS if (root / split / "instances.json").is_file()}
        if not folders and (root / "instances.json").is_file():
            folders = {"all": root}
        found = {split: (folder / "instances.json", folder / "images") for split, folder in folders.items()}
    if not found.keys() & {"train", "all"}:
        tables = root.suffix == ".csv" or any((root / name).is_file() for name in ("boxes.csv", "train.csv"))
        raise UserError(
            f"{root} has no boxes to train with; expected annotations/instances_train*.json, train/instances.json"
            " or instances.json in it" + ("; tables in CSV are for data.source box_table" if tables else "")
        )
    return {split: found[split] for split in ("all", *SPLITS) if split in found}


def _read_json(table: Path) -> dict[str, Any]:
    try:
        content = json.loads(table.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{table} cannot be read: {error}") from error
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise UserError(f"{table} is not in COCO's form: expected lists of images, annotations and categories")
    return content


def _categories(content: dict[str, Any], table: Path) -> dict[int, str]:
    try:
        return {int(category["id"]): str(category["name"]) for category in content["categories"]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{table}: a category is not in COCO's form: {error!r}") from error


def _read_coco(content: dict[str, Any], table: Path, folder: Path, names: tuple[str, ...], masks: bool) -> BoxSplit:
    number = {}
    for key, name in _categories(content, table).items():
        if name not in names:
            raise UserError(f"{table} has the category {name!r}, which the training part has not")
        number[key] = names.index(name)
    images = _coco_images(content["images"], folder, table)
    objects: dict[Any, list[Box]] = defaultdict(list)
    bad = []
    for annotation in content["annotations"]:
        image, category = (_field(annotation, name, table) for name in ("image_id", "category_id"))
        which = f"annotation {annotation.get('id', '?')}"
        place = f"{table}: {which}"
        if image not in images:
            raise UserError(f"{place} is of image {image!r}, which the table has not")
        if category not in number:
            raise UserError(f"{place} has category_id {category!r}; there are {_span(number)}")
        box = _coco_box(annotation, number[category], images[image].size, place)
        outline = annotation.get("segmentation") if masks else None
        if masks and not outline:
            raise UserError(f"{place} has no segmentation; without masks, input.masks is false")
        if box is None or _is_flat(outline):
            bad.append(f"{which} of {images[image].image.name}")
        else:
            objects[image].append(replace(box, outline=json.dumps(outline)) if outline else box)
    _tell_left_out(bad, len(content["annotations"]), table)
    return _checked([replace(item, boxes=tuple(objects[key])) for key, item in images.items()], table)


def _coco_images(entries: Iterable[Any], folder: Path, table: Path) -> dict[Any, Objects]:
    """The images of a table by their ids, without objects."""
    images: dict[Any, Objects] = {}
    for entry in entries:
        key, name = (_field(entry, field, table) for field in ("id", "file_name"))
        item = Objects(folder / str(name), size=_size(entry, table))
        if images.setdefault(key, item) is not item:
            raise UserError(f"{table} has two images with the id {key!r}, {images[key].image.name} and {name}")
    return images


def _field(entry: Any, name: str, table: Path) -> Any:
    """A number or a text of an entry."""
    if not isinstance(entry, dict) or not isinstance(entry.get(name), int | float | str):
        raise UserError(f"{table} is not in COCO's form: {name!r} is missing in {str(entry)[:80]}")
    return entry[name]


def _span(numbers: Mapping[int, int]) -> str:
    return f"{len(numbers)} categories, {min(numbers)} to {max(numbers)}" if numbers else "no categories"


def _size(image: dict[str, Any], table: Path) -> tuple[int, int] | None:
    sides = image.get("width"), image.get("height")
    if None in sides:
        return None
    try:
        width, height = map(int, sides)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(f"{table}: {image['file_name']} is said to be {sides[0]!r} x {sides[1]!r} pixels") from error
    return width, height


def _coco_box(annotation: dict[str, Any], label: int, size: tuple[int, int] | None, place: str) -> Box | None:
    """None where nothing of the box lies in the image."""
    try:
        left, top, width, height = map(float, annotation["bbox"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place} has no bbox of four numbers: {annotation.get('bbox')!r}") from error
    try:
        area = float(annotation.get("area") or width * height)
    except (TypeError, ValueError) as error:
        raise UserError(f"{place} has an area that is no number: {annotation['area']!r}") from error
    corners = _inside((left, top, left + width, top + height), size)
    if corners is None:
        return None
    return Box(corners, label, bool(annotation.get("iscrowd")), area)


def _is_flat(outline: Any) -> bool:
    """Whether none of some polygons has the six numbers of a triangle."""
    return isinstance(outline, list) and all(isinstance(part, list) and len(part) < 6 for part in outline)


def _inside(
    corners: tuple[float, float, float, float], size: tuple[int, int] | None
) -> tuple[float, float, float, float] | None:
    """The part of a box that lies in an image of a width and height; None where it has no area, or is no number."""
    width, height = size or (np.inf, np.inf)
    left, top = max(corners[0], 0.0), max(corners[1], 0.0)
    right, bottom = min(corners[2], width), min(corners[3], height)
    if not np.isfinite(corners).all() or right <= left or bottom <= top:
        return None
    return left, top, right, bottom


def _tell_left_out(bad: Sequence[str], count: int, where: Path) -> None:
    if bad:
        text = "%s: left out %d of %d boxes or masks without an area in the image: %s"
        logger.warning(text, where, len(bad), count, shorten(bad))


def _checked(items: Sequence[Objects], table: Path) -> BoxSplit:
    """Single images that are missing will be unreadable samples; where all are, they lie somewhere else."""
    if not items:
        raise UserError(f"{table} names no images")
    missing = [item.image for item in items if not item.image.is_file()]
    if len(missing) == len(items):
        raise UserError(f"{missing[0]} is missing, and so are all of the {len(items)} images that {table} names")
    if missing:
        names = shorten([file.name for file in missing])
        logger.warning("%s: %d of %d images are missing: %s", table, len(missing), len(items), names)
    if empty := sum(not item.boxes for item in items):
        logger.info("%s: nothing is to be found in %d of %d images", table, empty, len(items))
    return BoxSplit(items)


def load_box_table(path: str | Path, masks: bool = False) -> Boxed:
    """Find images and the boxes of CSV tables with the columns file, x1, y1, x2, y2 and class, one box a line.

    The file is relative to the folder of the table; the corners are in pixels, the second one not included. A line with
    a file alone names an image in which there is nothing to be found. Boxes without an area are left out, counted and
    named in the log.

    Args:
        path: A table, or a folder with ``boxes.csv``, or with ``train.csv``, ``val.csv`` and ``test.csv``, of which the
            last two may be missing.
        masks: Whether every object has to have an outline, which none has here.

    Returns:
        The classes of the training part in sorted order, and the splits that there are.

    Raises:
        UserError: The tables are not like that, or none of the images is there.
    """
    if masks:
        raise UserError("tables of boxes have no masks: input.masks has to be false")
    root = Path(path)
    tables = {"all": root if root.is_file() else root / "boxes.csv"}
    if (root / "train.csv").is_file():
        tables = {split: root / f"{split}.csv" for split in SPLITS if (root / f"{split}.csv").is_file()}
    rows = {split: _read_rows(table) for split, table in tables.items()}
    names = tuple(sorted({row["class"] for row in next(iter(rows.values())) if row["class"]}))
    return Boxed(names, {split: _from_rows(rows[split], table, names) for split, table in tables.items()})


def _read_rows(table: Path) -> list[dict[str, str]]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise UserError(f"{table} has not the columns {', '.join(COLUMNS)}")
            return [{name: (row[name] or "").strip() for name in COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{table} is not a table that can be read: {error}") from error


def _from_rows(rows: Iterable[dict[str, str]], table: Path, names: tuple[str, ...]) -> BoxSplit:
    objects: dict[str, list[Box]] = defaultdict(list)
    bad, count = [], 0
    for line, row in enumerate(rows, 2):
        found = objects[row["file"]]
        if not any(row[name] for name in COLUMNS[1:]):
            continue
        count += 1
        try:
            x1, y1, x2, y2 = (float(row[name]) for name in COLUMNS[1:5])
        except ValueError as error:
            raise UserError(f"{table}, line {line}: the corners of a box are four numbers: {error}") from error
        if row["class"] not in names:
            raise UserError(f"{table}, line {line}: the class {row['class']!r} is not in the training part")
        corners = _inside((x1, y1, x2, y2), None)
        if corners is None:
            bad.append(f"line {line} ({row['file']})")
        else:
            found.append(Box(corners, names.index(row["class"]), area=(x2 - x1) * (y2 - y1)))
    _tell_left_out(bad, count, table)
    return _checked([Objects(table.parent / name, tuple(boxes)) for name, boxes in objects.items()], table)


COCO = Source(lambda path, inputs: load_coco(path, inputs.masks))

BOX_TABLE = Source(lambda path, inputs: load_box_table(path, inputs.masks))
