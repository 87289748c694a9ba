"""Detection: what is learnt, scores on a split, and boxes for files."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from unireplknet.data.dataset import Batch
from unireplknet.errors import UserError, shorten
from unireplknet.modalities.panels import panels
from unireplknet.tasks.detect.data import BoxSplit, Objects
from unireplknet.tasks.detect.draw import draw_boxes
from unireplknet.tasks.detect.metrics import as_numbers, coco_scores
from unireplknet.tasks.scoring import best_device, choose_split, find_places, write_evaluation
from unireplknet.training.loader import build_loader
from unireplknet.training.run import Run

logger = logging.getLogger(__name__)

FIGURES = {
    "ap": "map",
    "ap50": "map_50",
    "ap75": "map_75",
    "ap_small": "map_small",
    "ap_medium": "map_medium",
    "ap_large": "map_large",
    "ar100": "mar_100",
}
"""COCO's scores, and what torchmetrics calls them."""


@dataclass(frozen=True)
class BoxScores:
    """What a network found in the images of a split.

    Attributes:
        figures: COCO's scores of "box", and of "mask" where there are masks, by their names in :data:`FIGURES`; None
            where nothing of the kind is to be found.
        per_class: AP of boxes and masks of each class, by its index, likewise.
        objects: How many objects of each class are to be found.
        images: Number of images.
        unreadable: One line for each sample that could not be read.
    """

    figures: dict[str, dict[str, float | None]]
    per_class: dict[str, dict[int, float | None]]
    objects: list[int]
    images: int
    unreadable: list[str]

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """All of it as plain numbers."""
        return {
            "images": self.images,
            "objects": sum(self.objects),
            **self.figures,
            "per_class": {
                name: {f"{kind}_ap": each.get(i) for kind, each in self.per_class.items()} | {"objects": count}
                for i, (name, count) in enumerate(zip(classes, self.objects, strict=True))
            },
            "unreadable": self.unreadable,
        }


def evaluate(run: Run, name: str = "", path: str = "") -> tuple[Path, BoxScores]:
    """Score the best epoch of a run on one of its splits as COCO does.

    Args:
        run: The run.
        name: "train", "val" or "test"; by default test, or val where the data have no test split.
        path: Where the data lie now, if they have moved.

    Returns:
        The file in the run folder that holds the scores, and the scores.

    Raises:
        UserError: There is no such split, or none of its samples could be read.
    """
    data, recipe = run.load_data(path), run.recipe
    name = choose_split(run, data, name)
    masks = recipe.head.detector == "mask_rcnn"
    scores = score(run.load_model(), build_loader(recipe, data.splits[name]), len(run.classes), masks)
    return write_evaluation(run, name, scores.summary(run.classes)), scores


@torch.inference_mode()
def find(model: nn.Module, loader: DataLoader[Any]) -> Iterator[tuple[Batch, list[dict[str, Tensor]]]]:
    """Batches, and what a network finds in each of their maps."""
    device = best_device()
    model = model.to(device).eval()
    for batch in loader:
        found = model([map.to(device) for map in batch.maps]) if batch.maps else []
        yield batch, [{name: value.cpu() for name, value in image.items()} for image in as_numbers(found)]


def surest(found: dict[str, Tensor], least: float) -> dict[str, Tensor]:
    """The objects of an image that have at least a score."""
    kept = found["scores"] >= least
    return {name: value[kept] for name, value in found.items()}


def score(model: nn.Module, loader: DataLoader[Any], classes: int, masks: bool = False) -> BoxScores:
    """Run a network over images, and compare what it finds with what is there.

    Args:
        model: The network.
        loader: Batches of images.
        classes: Number of classes.
        masks: Whether there are masks to compare.

    Raises:
        UserError: None of the images could be read.
    """
    metric = coco_scores(masks, each_class=True)
    objects, images, unreadable = torch.zeros(classes, dtype=torch.int64), 0, []
    for batch, found in find(model, loader):
        for problem in batch.problems:
            unreadable.append(problem)
            logger.warning("skipped unreadable sample %d: %s", len(unreadable), problem)
        if not batch.labels:
            continue
        metric.update(found, batch.labels)
        for there in batch.labels:
            objects += torch.bincount(there["labels"][~there["iscrowd"]], minlength=classes)
            images += 1
    if not images:
        raise UserError(f"none of the samples could be read; the first: {shorten(unreadable, 1)}")
    made = metric.compute()
    kinds = {"box": "bbox_", "mask": "segm_"} if masks else {"box": ""}
    figures = {k: {n: _known(made[p + key]) for n, key in FIGURES.items()} for k, p in kinds.items()}
    seen = made["classes"].reshape(-1).tolist()
    per_class = {
        kind: dict(zip(seen, map(_known, made[f"{prefix}map_per_class"].reshape(-1)), strict=True))
        for kind, prefix in kinds.items()
    }
    return BoxScores(figures, per_class, objects.tolist(), images, unreadable)


def _known(value: Tensor) -> float | None:
    """COCO says -1 where there is nothing to be found."""
    return None if value < 0 else value.item()


@dataclass(frozen=True)
class Detected:
    """One object that was found.

    Attributes:
        name: Its class.
        score: How certain the network is, 0 to 1.
        box: Left, top, right and bottom in pixels.
        mask: Its pixels in COCO's packed form, from Mask R-CNN.
    """

    name: str
    score: float
    box: list[float]
    mask: dict[str, Any] | None = None


@dataclass(frozen=True)
class Prediction:
    """What was found in one file.

    Attributes:
        file: The file.
        objects: The most certain first.
        picture: PNG file with the boxes drawn on the image; empty where the file was unreadable.
        problem: Why the file was unreadable.
    """

    file: str
    objects: list[Detected]
    picture: str
    problem: str = ""


def predict(run: Run, paths: Sequence[str | Path], folder: Path | None = None, least: float = 0.5) -> list[Prediction]:
    """Find objects in files.

    Args:
        run: The run.
        paths: Image files, or folders to search for them.
        folder: Where to put ``NAME-drawn.png``; by default ``predictions`` in the run folder.
        least: Score that an object needs to be told.

    Returns:
        One prediction a file, in the order given.

    Raises:
        UserError: A path does not exist, or no file was found or readable.
    """
    recipe = run.recipe
    files, places = find_places(run, paths, folder)
    said: dict[int, Prediction] = {}
    problems: list[str] = []
    for batch, found in find(run.load_model(), build_loader(recipe, BoxSplit([Objects(file) for file in files]))):
        problems += batch.problems
        for index, map, each in zip(batch.indices.tolist(), batch.maps, found, strict=True):
            told = surest(each, least)
            picture = places[index].with_name(f"{places[index].name}-drawn.png")
            draw_boxes(panels(recipe.input, map)[0].pixels, told, run.classes, files[index].name, picture)
            said[index] = Prediction(str(files[index]), _told(told, run.classes), str(picture))
    if not said:
        raise UserError(f"none of the files could be read; the first: {problems[0]}")
    rest = iter(problems)
    return [said.get(i) or Prediction(str(file), [], "", next(rest)) for i, file in enumerate(files)]


def _told(found: dict[str, Tensor], classes: Sequence[str]) -> list[Detected]:
    masks = found.get("masks", [None] * len(found["labels"]))
    return [
        Detected(classes[label], score, [round(side, 1) for side in box], None if mask is None else _packed(mask))
        for label, score, box, mask in zip(
            found["labels"].tolist(), found["scores"].tolist(), found["boxes"].tolist(), masks, strict=True
        )
    ]


def _packed(mask: Tensor) -> dict[str, Any]:
    from faster_coco_eval import mask as coco

    made = coco.encode(mask.to(torch.uint8).numpy())
    return {"size": list(made["size"]), "counts": made["counts"].decode()}
