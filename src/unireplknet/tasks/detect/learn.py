"""How a network learns to find objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from unireplknet.tasks.detect.metrics import BoxPrecision, as_numbers
from unireplknet.tasks.detect.network import Detector
from unireplknet.training.learner import Learner
from unireplknet.training.recipe import Recipe


class DetectionLearner(Learner):
    """Learns to find objects.

    Args:
        model: From maps to losses or boxes.
        recipe: Decides optimiser, schedule and memory layout; the loss is torchvision's.
        steps_per_epoch: Optimiser steps in an epoch, for the schedule.
    """

    model: Detector

    def __init__(self, model: Detector, recipe: Recipe, steps_per_epoch: int) -> None:
        super().__init__(model, recipe, steps_per_epoch, nn.ModuleDict({"box_ap": BoxPrecision()}))

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """The least that goes through all stages."""
        return self.recipe.input.channels, 64, 64

    def blank_labels(self, count: int, shape: tuple[int, int, int]) -> list[dict[str, Tensor]]:
        """Nothing to be found."""
        nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
        return [nothing | {"masks": torch.zeros(0, *shape[1:], dtype=torch.uint8)} for _ in range(count)]

    def forward(self, maps: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """What is found in each of the maps (C, H, W)."""
        return self.model(maps)

    def objective(self, maps: Sequence[Tensor], labels: Sequence[dict[str, Tensor]]) -> Tensor:
        """Sum of the detector's losses."""
        return torch.stack(list(self.model(maps, labels).values())).sum()

    def no_loss(self) -> Tensor:
        """Batch statistics of the backbone, and gradients of everything: the heads cannot do without an image."""
        seen = self.model.features(torch.empty(0, *self.map_shape, device=self.device))
        idle = [p.sum() for p in self.model.parameters() if p.requires_grad]
        return torch.stack([level.sum() for level in seen]).sum() + 0 * torch.stack(idle).sum()

    def count(self, outputs: Sequence[dict[str, Tensor]], labels: Any, scores: dict[str, Metric]) -> None:
        """Count boxes of at least one image."""
        scores["box_ap"].update(as_numbers(outputs), list(labels))
