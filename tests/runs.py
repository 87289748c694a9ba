"""Small data sets of every task, drawn here, and a recipe for each that learns it in seconds on a CPU."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor, nn

from tests.nn.helpers import randomise
from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.modalities.series import SeriesAugment
from unireplknet.registry import DEFAULT_TASK, MODALITIES
from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput
from unireplknet.tasks.detect.task import DetectHead
from unireplknet.tasks.forecast.inputs import ForecastInput
from unireplknet.tasks.segment.inputs import SegmentAugment, SegmentInput
from unireplknet.tasks.segment.task import SegmentHead
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer, find_task
from unireplknet.training.run import Run

COLORS = {"blue": (30, 30, 220), "green": (30, 220, 30), "red": (220, 30, 30)}


def write_tree(root: Path, count: int = 16) -> Path:
    """One folder a colour, noisy pictures of odd sizes, and among the red ones a file that is no picture."""
    rng = np.random.default_rng(0)
    for name, colour in COLORS.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            noise = rng.normal(colour, 25, (9 + i % 3, 11, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / name / f"{i:02}.png")
    (root / "red" / "broken.png").write_bytes(b"this is not a picture")
    return root


def image_recipe(path: Path, epochs: int = 3) -> Recipe:
    """Learns the tree."""
    return Recipe(
        "tiny",
        model=Model("test_unireplknet", stem_stride=1, dims=(8, 8, 16, 16)),
        data=Data("folder", str(path), val_fraction=0.25),
        input=ImageInput(size=8, fit="squash"),
        augment=ImageAugment(flip=0.5, translate=0.1),
        optim=Optim(epochs=epochs, batch_size=8, lr=1e-2, warmup_epochs=1, ema=0.5),
        trainer=Trainer(select="loss", progress=False, accelerator="cpu"),
    )


MASK_COLORS = ((40, 40, 40), (220, 40, 40), (40, 60, 220))
MASK_CLASSES = ("ground", "red", "blue")


def draw_scene(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (H, W, 3) and classes (H, W): a rectangle of each colour, noise, and a frame of 255 to be ignored."""
    mask = np.zeros((height, width), np.uint8)
    for number in rng.permutation([1, 2]):
        top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
        mask[top : top + height // 2, left : left + width // 2] = number
    pixels = np.array(MASK_COLORS)[mask] + rng.normal(0, 20, (height, width, 3))
    mask[0] = 255
    return pixels.clip(0, 255).astype(np.uint8), mask


def write_scenes(root: Path, count: int = 12, sizes: tuple[tuple[int, int], ...] = ((40, 52), (47, 33))) -> Path:
    """A folder as ``load_masks`` reads it, with images of several sizes."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in MASK_CLASSES), encoding="utf-8")
    for i in range(count):
        pixels, mask = draw_scene(rng, *sizes[i % len(sizes)])
        Image.fromarray(pixels).save(root / "images" / f"{i:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i:02}.png")
    return root


def mask_recipe(path: Path, epochs: int = 6, **head: object) -> Recipe:
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


BOX_COLORS = ((220, 40, 40), (40, 60, 220))
BOX_CLASSES = ("red", "blue")
BOX_NUMBERS = (7, 3)
"""COCO's numbers of the classes: neither from 0 nor in order of the names."""


def draw_objects(rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Pixels (H, W, 3), and one rectangle of each colour on grey noise, left and right, as COCO's annotations."""
    pixels = rng.normal(120, 15, (height, width, 3))
    found = []
    for side, colour in enumerate(rng.permutation(2)):
        w, h = rng.integers(10, width // 2 - 2), rng.integers(10, height // 2)
        x, y = side * width // 2 + rng.integers(0, width // 2 - w), rng.integers(0, height - h)
        pixels[y : y + h, x : x + w] = BOX_COLORS[colour] + rng.normal(0, 10, (h, w, 3))
        box = [int(value) for value in (x, y, w, h)]
        corners = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        outline = [[int(value) for value in part] for part in corners]
        entry = {"category_id": BOX_NUMBERS[colour], "bbox": box, "area": int(w * h), "iscrowd": 0}
        found.append(entry | {"segmentation": outline})
    return pixels.clip(0, 255).astype(np.uint8), found


def coco_table(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """COCO's form, the annotations numbered from 1."""
    return {
        "images": images,
        "annotations": [{"id": i, **annotation} for i, annotation in enumerate(annotations, 1)],
        "categories": [{"id": number, "name": name} for number, name in zip(BOX_NUMBERS, BOX_CLASSES, strict=True)],
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


def box_recipe(path: Path, epochs: int = 8, **head: Any) -> Recipe:
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


class FixedDetector(nn.Module):
    """Says what it is told of each map in turn."""

    def __init__(self, found: list[dict[str, Tensor]]) -> None:
        super().__init__()
        self.found = iter(found)

    def forward(self, maps: list[Tensor]) -> list[dict[str, Tensor]]:
        return [next(self.found) for _ in maps]


def weather_frame(hours: int = 400) -> pd.DataFrame:
    """A daily swing of temperature and wind at two stations, with noise and gaps."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2020-03-01T00:00", periods=hours, freq="h")
    frames = []
    for number, station in enumerate(("north", "south")):
        swing = np.sin(2 * np.pi * (times.hour + number) / 24)
        frames.append(
            pd.DataFrame(
                {
                    "time": times.strftime("%Y-%m-%dT%H:%M"),
                    "station": station,
                    "temp": 10 + 5 * swing + rng.normal(0, 0.3, hours),
                    "wind": 3 - swing + rng.normal(0, 0.3, hours),
                    "from": rng.integers(0, 36, hours) * 10.0,
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame.loc[rng.random(len(frame)) < 0.05, "temp"] = np.nan
    return frame[rng.random(len(frame)) > 0.02].reset_index(drop=True)


def write_weather(folder: Path, hours: int = 400) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weather_frame(hours).to_csv(folder / "weather.csv", index=False)
    (folder / "stations.csv").write_text("station,latitude,longitude\nnorth,60,5\nsouth,40,5\n")
    return folder


def series_input(**changes: object) -> ForecastInput:
    settings = {
        "horizon": 6,
        "past": 24,
        "station": "station",
        "variables": ("temp", "wind", "from"),
        "targets": ("temp", "wind"),
        "units": ("°C", "m/s"),
        "angles": ("from",),
        "embed_dim": 6,
    }
    return ForecastInput(**(settings | changes))  # type: ignore[arg-type]


def forecast_recipe(path: Path, epochs: int = 3) -> Recipe:
    return Recipe(
        "breeze",
        model=Model("test_unireplknet", stem_stride=1, dims=(8, 8, 8, 8), drop_path=0.2),
        data=Data("series", str(path), val_fraction=0.2),
        input=series_input(drop=0.1),
        augment=SeriesAugment(noise=0.1, hide=0.05),
        optim=Optim(epochs=epochs, batch_size=64, lr=1e-2, warmup_epochs=1, ema=0.5),
        trainer=Trainer(select="loss", progress=False, accelerator="cpu", save_minutes=0.0),
    )


def untrained_run(
    folder: Path, inputs: Any, names: tuple[str, ...], data: Data | None = None, head: Any = None, **model: Any
) -> Run:
    """What a run of no epochs would leave: enough to look into."""
    task = find_task(getattr(inputs, "task", DEFAULT_TASK))
    pairs = (*task.inputs.values(), *MODALITIES.values())
    augment = next(augment for kind, augment in pairs if kind is type(inputs))
    model = {"dims": (8, 8, 16, 16), "stem_stride": 1} | model
    trainer = Trainer(progress=False, accelerator="cpu")
    recipe = Recipe(
        "none",
        Model("test_unireplknet", **model),
        data or Data(),
        input=inputs,
        augment=augment(),
        trainer=trainer,
        head=head,
    )
    folder.mkdir()
    run = Run.create(folder, recipe, names)
    network = randomise(recipe.build(names))
    torch.save({"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}}, folder / "best.ckpt")
    return run
