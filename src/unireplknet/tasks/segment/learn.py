"""How a network learns the class of every pixel."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassJaccardIndex

from unireplknet.data.split import DataSet
from unireplknet.errors import UserError, shorten
from unireplknet.tasks.segment.data import IGNORE, Masked, read_numbers
from unireplknet.tasks.segment.inputs import SegmentInput
from unireplknet.tasks.segment.network import Segmenter
from unireplknet.training.learner import Learner
from unireplknet.training.recipe import Recipe


class SegmentationLearner(Learner):
    """Learns the class of every pixel.

    Args:
        model: From maps to logits of the same height and width.
        recipe: Decides loss, optimiser, schedule and memory layout.
        num_classes: Number of classes.
        steps_per_epoch: Optimiser steps in an epoch, for the schedule.
    """

    model: Segmenter

    def __init__(self, model: Segmenter, recipe: Recipe, num_classes: int, steps_per_epoch: int) -> None:
        miou = MulticlassJaccardIndex(num_classes, average="macro", ignore_index=IGNORE)
        super().__init__(model, recipe, steps_per_epoch, nn.ModuleDict({"loss": MeanMetric("error"), "miou": miou}))

    def objective(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of the pixels that count, with that of the auxiliary head where there is one."""
        if len(maps) == 1:  # all that unreadable samples have left; UPerNet's coarsest level needs two, as above
            maps, labels = maps.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1)
        outputs = self.model.forward_training(maps.contiguous(memory_format=self.layout))
        smoothing, weights = self.recipe.optim.label_smoothing, (1.0, self.recipe.head.auxiliary)
        losses = [w * _pixel_loss(out, labels, smoothing) for w, out in zip(weights, outputs, strict=False)]
        return torch.stack(losses).sum()

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """The least that goes through all stages and the decoder."""
        return self.recipe.input.channels, 64, 64

    def blank_labels(self, count: int, shape: tuple[int, int, int]) -> Tensor:
        """The first class everywhere."""
        return torch.zeros(count, *shape[1:], dtype=torch.int64)

    def count(self, outputs: Tensor, labels: Tensor, scores: dict[str, Metric]) -> None:
        """Cross-entropy of the pixels that count, and the mean over classes of intersection over union."""
        scores["loss"].update(_pixel_loss(outputs, labels), (labels != IGNORE).sum())
        scores["miou"].update(outputs.argmax(1), labels)


def _pixel_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the pixels that count, 0 where none does."""
    total = F.cross_entropy(logits, labels, ignore_index=IGNORE, label_smoothing=smoothing, reduction="sum")
    return total / (labels != IGNORE).sum().clamp_min(1)


def check_masks(recipe: Recipe, data: DataSet) -> None:
    """See that the masks to train with show two classes or more; they are looked at until they do.

    Where objects have a number that is ignored, such as 255 for white, a network would learn to say the other class
    everywhere, and all that counts would be right. Masks that cannot be read are training's business.

    Raises:
        UserError: They do not.
    """
    inputs = recipe.input
    assert isinstance(data, Masked)
    assert isinstance(inputs, SegmentInput)
    shown: set[int] = set()
    readable = None
    for pair in data.splits["train"].items:
        if pair.mask is None:
            continue
        try:
            shown |= set(inputs.read_labels(pair.mask, pair.classes).unique().tolist()) - {IGNORE}
        except Exception:  # decoders raise anything
            continue
        readable = pair.mask
        if len(shown) > 1:
            return
    if readable is not None:
        first, last = inputs.first_class, inputs.first_class + len(data.classes) - 1
        numbers = shorten([str(number) for number in np.unique(read_numbers(readable))])
        seen = data.classes[shown.pop()] if shown else "no class"
        raise UserError(
            f"the masks to train with show {seen} alone: {readable} has the numbers {numbers};"
            f" the {len(data.classes)} classes are {first} to {last}, and {inputs.ignore} is ignored"
        )
