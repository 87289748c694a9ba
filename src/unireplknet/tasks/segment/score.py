"""Scores of masks on a split, and masks for files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_confusion_matrix

from unireplknet.data.dataset import MapDataset, collate
from unireplknet.data.sampler import EpochSampler
from unireplknet.errors import UserError, shorten
from unireplknet.modalities.panels import panels
from unireplknet.tasks.scoring import best_device, choose_split, find_places, write_evaluation
from unireplknet.tasks.segment.data import IGNORE, MaskSplit, Pair
from unireplknet.tasks.segment.draw import draw_masks
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run

logger = logging.getLogger(__name__)

DRAWN = 1000
"""Longest side of what is drawn in pixels: photographs have many times more."""


def _times(height: int, width: int, scale: float) -> tuple[int, int]:
    return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class Look:
    """How an image is looked at.

    Attributes:
        scales: Factors on the size to which it is scaled; the probabilities are averaged.
        mirrored: Whether to look at its mirror images too.
        window: Side of the windows of sliding inference; 0 for the whole at once.
        overlap: Part of a window that the next one sees again.
        size: From height, width and scale of an image to the height and width at which it is looked at.
    """

    scales: tuple[float, ...] = (1.0,)
    mirrored: bool = False
    window: int = 0
    overlap: float = 0.0
    size: Callable[[int, int, float], tuple[int, int]] = _times

    @property
    def kind(self) -> str:
        """What tells its scores from those of one look at the whole."""
        return ("-multi-scale" if self.mirrored else "") + ("-sliding" if self.window else "")

    @staticmethod
    def of(recipe: Recipe, multi_scale: bool = False, sliding: bool | None = None) -> Look:
        """What a recipe says, at one scale or at several, whole or (by default as the recipe says) sliding."""
        inputs: Any = recipe.input
        window = inputs.size if (inputs.inference == "sliding" if sliding is None else sliding) else 0
        scales = inputs.scales if multi_scale else (1.0,)
        return Look(tuple(scales), multi_scale, window, inputs.overlap, inputs.scaled_size)


def whole_or_sliding(model: nn.Module, map: Tensor, look: Look) -> Tensor:
    """Logits of a map.

    Args:
        model: From maps (B, C, H, W) to logits (B, classes, H, W).
        map: Shape (1, C, H, W).
        look: Its window, if it has one; windows at the edges are moved inwards, so that all have the same size.

    Returns:
        Shape (1, classes, H, W), the mean where windows overlap.
    """
    if not look.window:
        return model(map)
    height, width = map.shape[2:]
    tall, wide = min(look.window, height), min(look.window, width)
    total: Any = 0
    count = map.new_zeros(1, 1, height, width)
    for top in _starts(height, tall, look.overlap):
        for left in _starts(width, wide, look.overlap):
            place = (slice(None), slice(None), slice(top, top + tall), slice(left, left + wide))
            seen = model(map[place])
            if isinstance(total, int):
                total = seen.new_zeros(1, seen.shape[1], height, width)
            total[place] += seen
            count[place] += 1
    return total / count


def _starts(length: int, window: int, overlap: float) -> list[int]:
    stride = max(1, round(window * (1 - overlap)))
    return sorted({min(start, length - window) for start in range(0, length - window + stride, stride)})


def probabilities(model: nn.Module, map: Tensor, look: Look, device: torch.device | None = None) -> Tensor:
    """What a network thinks of each pixel of an image.

    Args:
        model: From maps to logits.
        map: The image as it is, shape (1, C, H, W); each scale is made of this.
        look: How to look at it.
        device: Where the network is, if not where the map is: not every device scales with averages.

    Returns:
        Shape (classes, H, W).
    """
    height, width = map.shape[2:]
    total = torch.zeros(())
    for scale in look.scales:
        scaled = _resized(map, look.size(height, width, scale), antialias=True).to(device)
        for mirrored in (False, True)[: 1 + look.mirrored]:
            logits = whole_or_sliding(model, scaled.flip(3) if mirrored else scaled, look).float()
            logits = _resized(logits.flip(3) if mirrored else logits, (height, width))
            total = total + logits[0].softmax(0)
    return total / (len(look.scales) * (1 + look.mirrored))


def _resized(maps: Tensor, size: Sequence[int], antialias: bool = False) -> Tensor:
    if maps.shape[2:] == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", antialias=antialias)


@dataclass(frozen=True)
class MaskScores:
    """What a network made of the pixels of a split.

    Attributes:
        matrix: How many pixels of each class (row) were taken for each class (column), shape (classes, classes).
        images: Number of images.
        unreadable: One line for each sample that could not be read.
    """

    matrix: np.ndarray
    images: int
    unreadable: list[str]

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each class, over all pixels; not a number where no pixel is or is taken for it."""
        both = self.matrix.diagonal()
        either = self.matrix.sum(0) + self.matrix.sum(1) - both
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Mean intersection over union, accuracy of pixels and of classes, as plain numbers."""
        true, iou = self.matrix.sum(1), self.iou
        right = self.matrix.diagonal()
        return {
            "images": self.images,
            "pixels": int(true.sum()),
            "miou": float(np.nanmean(iou)),
            "pixel_accuracy": float(right.sum() / true.sum()),
            "mean_class_accuracy": float((right[true > 0] / true[true > 0]).mean()),
            "per_class": {
                name: {"iou": None if np.isnan(iou[i]) else float(iou[i]), "pixels": int(true[i])}
                for i, name in enumerate(classes)
            },
            "unreadable": self.unreadable,
        }


def evaluate(
    run: Run, name: str = "", path: str = "", multi_scale: bool = False, sliding: bool | None = None
) -> tuple[Path, MaskScores]:
    """Score the best epoch of a run on whole images of one of its splits, at the size of their masks.

    Args:
        run: The run.
        name: "train", "val" or "test"; by default test, or val where the data have no test split.
        path: Where the data lie now, if they have moved.
        multi_scale: Whether to average over input.scales and mirror images.
        sliding: Whether to look at windows instead of the whole; by default as the recipe says.

    Returns:
        The file in the run folder that holds the scores, and the scores.

    Raises:
        UserError: There is no such split, or none of its samples counts.
    """
    data, recipe = run.load_data(path), run.recipe
    name = choose_split(run, data, name)
    look = Look.of(recipe, multi_scale, sliding)
    scores = score(run.load_model(), whole_images(recipe, data.splits[name]), len(run.classes), look)
    how = {"scales": look.scales, "mirrored": look.mirrored, "window": look.window}
    return write_evaluation(run, name, how | scores.summary(run.classes), look.kind), scores


def whole_images(recipe: Recipe, split: MaskSplit) -> DataLoader[Any]:
    """One image a batch: they have all sizes."""
    inputs: Any = recipe.input
    dataset = MapDataset(split, inputs.read, inputs.whole, recipe.trainer.seed)
    sampler = EpochSampler(len(split), False)
    return DataLoader(dataset, 1, sampler=sampler, num_workers=recipe.data.workers, collate_fn=collate)


@torch.inference_mode()
def score(model: nn.Module, loader: DataLoader[Any], classes: int, look: Look) -> MaskScores:
    """Run a network over images, one a batch, and count pixels.

    Raises:
        UserError: No pixel counts.
    """
    device = best_device()
    model = model.to(device).eval()
    matrix, images, unreadable = np.zeros((classes, classes), np.int64), 0, []
    for batch in loader:
        for problem in batch.problems:
            unreadable.append(problem)
            logger.warning("skipped unreadable sample %d: %s", len(unreadable), problem)
        for map, mask in zip(batch.maps, batch.labels, strict=True):
            said = probabilities(model, map[None], look, device).argmax(0).cpu()
            matrix += multiclass_confusion_matrix(said, mask, classes, ignore_index=IGNORE).numpy()
            images += 1
    if not matrix.any():
        first = f"; the first unreadable one: {shorten(unreadable, 1)}" if unreadable else ""
        raise UserError(f"no pixel of {images} images has a class{first}")
    return MaskScores(matrix, images, unreadable)


@dataclass(frozen=True)
class Prediction:
    """The mask of one file.

    Attributes:
        file: The file.
        mask: PNG file with the number of the class of each pixel; empty where the file was unreadable.
        picture: PNG file with the mask drawn on the image.
        shares: Part of the pixels of each class that there is, largest first.
        problem: Why the file was unreadable.
    """

    file: str
    mask: str
    picture: str
    shares: dict[str, float]
    problem: str = ""


@torch.inference_mode()
def predict(run: Run, paths: Sequence[str | Path], folder: Path | None = None) -> list[Prediction]:
    """Segment files.

    Args:
        run: The run.
        paths: Image files, or folders to search for them.
        folder: Where to put ``NAME-mask.png`` and ``NAME-drawn.png``; by default ``predictions`` in the run folder.

    Returns:
        One prediction a file, in the order given.

    Raises:
        UserError: A path does not exist, or no file was found or readable.
    """
    recipe = run.recipe
    files, places = find_places(run, paths, folder)
    device, look = best_device(), Look.of(recipe)
    model = run.load_model().to(device)
    predictions = []
    for number, batch in enumerate(whole_images(recipe, MaskSplit([Pair(file) for file in files]))):
        file = files[number]
        if batch.problems:
            predictions.append(Prediction(str(file), "", "", {}, batch.problems[0]))
            continue
        said = probabilities(model, batch.maps, look, device).argmax(0).cpu()
        predictions.append(_write(file, batch.maps[0], said, run, places[number]))
    if all(p.problem for p in predictions):
        raise UserError(f"none of the files could be read; the first: {predictions[0].problem}")
    return predictions


def _write(file: Path, map: Tensor, said: Tensor, run: Run, stem: Path) -> Prediction:
    mask, picture = (stem.with_name(f"{stem.name}-{what}.png") for what in ("mask", "drawn"))
    inputs: Any = run.recipe.input
    classes = run.classes
    numbers = said.numpy() + inputs.first_class
    Image.fromarray(numbers.astype(np.uint8 if numbers.max() < 256 else np.uint16)).save(mask)
    step = -(-max(said.shape) // DRAWN)
    draw_masks(panels(inputs, map)[0].pixels[::step, ::step], said[::step, ::step], classes, file.name, picture)
    counts = torch.bincount(said.flatten(), minlength=len(classes))
    order = [i for i in counts.argsort(descending=True).tolist() if counts[i]]
    shares = {classes[i]: int(counts[i]) / said.numel() for i in order}
    return Prediction(str(file), str(mask), str(picture), shares)
