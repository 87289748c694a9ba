"""Small images of coloured rectangles with their boxes in COCO's form, and a recipe that learns them in seconds."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput
from unireplknet.tasks.detect.task import DetectHead
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

COLOURS = ((220, 40, 40), (40, 60, 220))
CLASSES = ("red", "blue")
NUMBERS = (7, 3)
"""COCO's numbers of the classes: neither from 0 nor in order of the names."""


def draw_objects(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Pixels (H, W, 3), and one rectangle of each colour on grey noise, left and right, as COCO's annotations."""
    pixels = rng.normal(120, 15, (height, width, 3))
    found = []
    for side, colour in enumerate(rng.permutation(2)):
        w, h = rng.integers(10, width // 2 - 2), rng.integers(10, height // 2)
        x, y = side * width // 2 + rng.integers(0, width // 2 - w), rng.integers(0, height - h)
        pixels[y : y + h, x : x + w] = COLOURS[colour] + rng.normal(0, 10, (h, w, 3))
        box = [int(value) for value in (x, y, w, h)]
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        outline = [[int(value) for value in part] for part in corners]
        entry = {"category_id": NUMBERS[colour], "bbox": box, "area": int(w * h), "iscrowd": 0}
        found.append(entry | {"segmentation": outline})
    return pixels.clip(0, 255).astype(np.uint8), found


def coco_table(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """COCO's form, the annotations numbered from 1."""
    return {
        "images": images,
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)],
        "categories": [{"id": number, "name": name} for number, name in zip(NUMBERS, CLASSES, strict=True)],
    }


def write_objects(
    root: Path,
    count: int = 12,
    sizes: tuple[tuple[int, int], ...] = ((48, 64), (56, 50)),
    empty: int = 0,
    seed: int = 0,
) -> Path:
    """A folder as ``load_coco`` reads it, with images of several sizes, the last ones of which are empty."""
    rng = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(count + empty):
        height, width = sizes[i % len(sizes)]
        pixels, found = draw_objects(rng, height, width)
        if i >= count:
            pixels, found = rng.normal(120, 15, pixels.shape).astype(np.uint8), []
        Image.fromarray(pixels).save(root / "images" / f"{i:02}.png")
        images.append({"id": 100 + i, "file_name": f"{i:02}.png", "width": width, "height": height})
        annotations += [{"image_id": 100 + i, **entry} for entry in found]
    (root / "instances.json").write_text(json.dumps(coco_table(images, annotations)), encoding="utf-8")
    return root


def tiny_recipe(path: Path, epochs: int = 8, **head: Any) -> Recipe:
    """Learns the rectangles."""
    small = {"width": 32, "anchors": (8, 16, 32, 64), "head_width": 64, "rois": 32, "proposals": 50}
    masks = head.get("detector") == "mask_rcnn"
    return Recipe(
        "tiny",
        model=Model("test_unireplknet", stem_stride=2),
        head=DetectHead(**(small | head)),  # type: ignore[arg-type]
        data=Data("coco", str(path), val_fraction=0.25, max_unreadable=0),
        input=DetectInput(short=48, long=80, masks=masks),
        augment=DetectAugment(scale=(0.9, 1.2), crop=0.2, flip=0.5),
        optim=Optim(epochs=epochs, batch_size=4, lr=2e-3, warmup_epochs=0.5, clip_grad=5.0, ema=0.5),
        trainer=Trainer(select="box_ap", progress=False, accelerator="cpu"),
    )


class Told(nn.Module):
    """Says what it is told of each map in turn."""

    def __init__(self, found: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.found = iter(found)

    def forward(self, maps: list[Tensor]) -> list[dict[str, Tensor]]:
        return [next(self.found) for _ in maps]
