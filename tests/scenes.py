"""Small scenes of coloured rectangles with their masks, and a recipe that learns them in seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

from unireplknet.tasks.segment.inputs import SegmentAugment, SegmentInput
from unireplknet.tasks.segment.task import SegmentHead
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

COLOURS = ((40, 40, 40), (220, 40, 40), (40, 60, 220))
CLASSES = ("ground", "red", "blue")


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H, W, 3) and classes (H, W): a rectangle of each colour, noise, and a frame of 255 to be ignored."""
    mask = np.zeros((height, width), np.uint8)
    for number in rng.permutation([1, 2]):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 2, left : left + width // 2] = number
    pixels = np.array(COLOURS)[mask] + rng.normal(0, 20, (height, width, 3))
    mask[0] = 255
    return pixels.clip(0, 255).astype(np.uint8), mask


def write_scenes(root: Path, count: int = 12, sizes: tuple[tuple[int, int], ...] = ((40, 52), (47, 33))) -> Path:
    """A folder as ``load_masks`` reads it, with images of several sizes."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES), encoding="utf-8")
    for i in range(count):
        pixels, mask = draw_scene(rng, *sizes[i % len(sizes)])
        Image.fromarray(pixels).save(root / "images" / f"{i:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
    return root


def tiny_recipe(path: Path, epochs: int = 6, **head: object) -> Recipe:
    """Learns the scenes."""
    head = {"decoder": "unet", "width": 64} | head
    return Recipe(
        "tiny",
        model=Model("test_unireplknet", stem_stride=2),
        head=SegmentHead(**head),  # type: ignore[arg-type]
        data=Data("masks", str(path), val_fraction=0.25, max_unreadable=0),
        input=SegmentInput(size=32, short=32, scales=(0.75, 1.0)),
        augment=SegmentAugment(scale=(0.8, 1.4), flip=0.5),
        optim=Optim(epochs=epochs, batch_size=2, lr=1e-2, warmup_epochs=0.5, label_smoothing=0.0, ema=0.5),
        trainer=Trainer(select="miou", progress=False, accelerator="cpu"),
    )
