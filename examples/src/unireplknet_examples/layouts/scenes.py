"""Scenes: colour emoji laid on photographs by their transparency, with masks and boxes for segmenters and detectors."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unireplknet.errors import UserError
from unireplknet_examples.emoji import load_emoji

BACKGROUND = "background"

LEFT_OUT = "Symbols"
"""Signs and letters in boxes: what they mean, and not how they look, makes them a category."""

SCENES = {"train": 2000, "val": 250, "test": 500}

SIDE = 96
"""Height and width of a scene in pixels."""

SIZES = (16, 56)
"""Smallest and largest side of an emoji in pixels."""

PHOTOGRAPHS = {
    "mate-backgrounds": "backgrounds/mate/nature/*.jpg",
    "lomiri-wallpapers-16.04": "backgrounds/*_by_*.jpg",
    "plasma-workspace-wallpapers": "wallpapers/*/contents/images/2560x1600.jpg",
}
"""Where photographs lie in Debian's packages: 39 together, as few of them would be learnt by heart."""

HIDDEN = 0.25
"""An emoji of which less is left to see is in the mask, but is no object to be found."""


@dataclass(frozen=True)
class Scene:
    """One composed picture.

    Attributes:
        pixels: Shape (H, W, 3), uint8.
        owners: Which emoji is seen in each pixel, counted from 1 from the lowest one; 0 for the photograph. (H, W).
        labels: Class of each emoji, from 1.
        visible: Part of each emoji that is seen, the rest being hidden by others or beyond the edge.
    """

    pixels: np.ndarray
    owners: np.ndarray
    labels: list[int]
    visible: list[float]

    @property
    def mask(self) -> np.ndarray:
        """Class of each pixel, uint8, shape (H, W)."""
        return np.array([0, *self.labels], np.uint8)[self.owners]


def scenes(packages: Path, out: Path, counts: dict[str, int] | None = None, seed: int = 0) -> None:
    """Compose scenes, as the source "masks" reads them, with ``SPLIT/instances.json`` in COCO's form.

    Neither a photograph nor a subject of emoji, whatever its skin, hair and gender, is in more than one split.

    Args:
        packages: Holds what emoji-datasource-google and the packages of :data:`PHOTOGRAPHS` unpacked to.
        out: The folder to make.
        counts: Scenes of each split.
        seed: Seed of division and scenes.

    Raises:
        UserError: The packages have not what is needed.
    """
    drawings = load_emoji(packages / "emoji-datasource-google" / "package").split(0.15, 0.25, seed)
    photographs = [file for name in PHOTOGRAPHS for file in _photographs(packages / name, PHOTOGRAPHS[name])]
    names = [BACKGROUND, *(name for name in drawings.classes if name != LEFT_OUT)]
    number = [names.index(name) if name in names else 0 for name in drawings.classes]
    out.mkdir()
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    for place, (split, count) in enumerate((counts or SCENES).items()):
        rng = np.random.default_rng((seed, place))
        photos = [_open_photograph(file) for file in _share(photographs, place, seed)]
        known = drawings.splits[split]
        of_class = [
            [file for file, label in zip(known.items, known.labels, strict=True) if number[label] == c]
            for c in range(1, len(names))
        ]
        _write_split(out / split, [compose(rng, photos, of_class) for _ in range(count)], names)


def _photographs(package: Path, pattern: str) -> list[Path]:
    """Its photographs, at least one for each split."""
    found = sorted(package.rglob(pattern))
    if len(found) < len(SCENES):
        raise UserError(f"{package.name} has {len(found)} photographs {pattern}; expected at least {len(SCENES)}")
    return found


def _share(photographs: Sequence[Path], place: int, seed: int) -> list[Path]:
    """A split's photographs: a quarter for test and for val each, the rest for train."""
    order = np.random.default_rng(seed).permutation(len(photographs))
    quarter = len(photographs) // 4 or 1
    part = (order[2 * quarter :], order[:quarter], order[quarter : 2 * quarter])[place]
    return [photographs[i] for i in part]


def _open_photograph(file: Path) -> Image.Image:
    with Image.open(file) as image:
        image.draft("RGB", (8 * SIDE, 8 * SIDE))
        image.thumbnail((8 * SIDE, 8 * SIDE))
        return image.convert("RGB")


def compose(rng: np.random.Generator, photographs: Sequence[Image.Image], drawings: Sequence[Sequence[Path]]) -> Scene:
    """Lay one to five emoji on a piece of a photograph: of any size, turned a little, over each other and the edges.

    Args:
        rng: Decides everything.
        photographs: What to cut a piece from.
        drawings: Files of the emoji of each class, with transparency.
    """
    canvas = _piece(rng, photographs[int(rng.integers(len(photographs)))])
    owners = np.zeros((SIDE, SIDE), np.uint8)
    labels, areas = [], []
    for owner in range(1, int(rng.integers(1, 6)) + 1):
        label = int(rng.integers(len(drawings)))
        layer = _layer(rng, drawings[label][int(rng.integers(len(drawings[label])))])
        left, top = (int(rng.integers(-side // 3, SIDE - 2 * side // 3 + 1)) for side in layer.size)
        whole = Image.new("RGBA", (SIDE, SIDE))
        whole.paste(layer, (left, top))
        canvas = Image.alpha_composite(canvas, whole)
        owners[np.asarray(whole)[..., 3] >= 128] = owner
        labels.append(label + 1)
        areas.append(max(1, int((np.asarray(layer)[..., 3] >= 128).sum())))
    seen = np.bincount(owners.flat, minlength=len(labels) + 1)[1:]
    return Scene(np.asarray(canvas.convert("RGB")), owners, labels, list(seen / np.array(areas)))


def _piece(rng: np.random.Generator, photograph: Image.Image) -> Image.Image:
    side = int(rng.integers(SIDE, min(photograph.size) + 1))
    left, top = (int(rng.integers(0, length - side + 1)) for length in photograph.size)
    return photograph.crop((left, top, left + side, top + side)).resize((SIDE, SIDE)).convert("RGBA")


def _layer(rng: np.random.Generator, file: Path) -> Image.Image:
    with Image.open(file) as image:
        drawing = image.convert("RGBA")
    side = int(np.exp(rng.uniform(*np.log(SIZES))))
    return drawing.resize((side, side)).rotate(rng.uniform(-30, 30), Image.Resampling.BILINEAR, expand=True)


def _write_split(folder: Path, made: Sequence[Scene], names: Sequence[str]) -> None:
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    images, annotations = [], []
    for i, scene in enumerate(made):
        file = f"{i:05}.jpg"
        Image.fromarray(scene.pixels).save(folder / "images" / file, quality=92)
        Image.fromarray(scene.mask).save(folder / "masks" / f"{i:05}.png")
        images.append({"id": i, "file_name": file, "width": SIDE, "height": SIDE})
        annotations += [{"image_id": i, **found} for found in objects(scene)]
    table = {
        "images": images,
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(names) if i],
    }
    (folder / "instances.json").write_text(json.dumps(table), encoding="utf-8")


def objects(scene: Scene) -> list[dict[str, Any]]:
    """The emoji of a scene that are to be found, as COCO describes objects: box and mask of what is seen of them."""
    found = []
    for owner, (label, visible) in enumerate(zip(scene.labels, scene.visible, strict=True), 1):
        mask = scene.owners == owner
        if visible < HIDDEN or not mask.any():
            continue
        rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
        found.append(
            {
                "category_id": label,
                "bbox": [int(value) for value in box],
                "area": int(mask.sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(mask.shape), "counts": _run_lengths(mask)},
            }
        )
    return found


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's run lengths: column by column, the first run is of what is not there."""
    flat = np.concatenate([[False], mask.T.flatten()])
    changes = np.flatnonzero(np.diff(flat)).tolist()
    edges = [0, *changes, mask.size]
    return [after - before for before, after in itertools.pairwise(edges)]
