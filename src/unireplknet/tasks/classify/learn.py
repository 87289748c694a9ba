"""How a network learns to classify."""

from __future__ import annotations

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from unireplknet.tasks.classify.labels import MeanAveragePrecision, class_loss, class_probabilities, class_targets
from unireplknet.training.learner import Learner
from unireplknet.training.recipe import Recipe


class ClassificationLearner(Learner):
    """Learns to tell classes apart.

    Args:
        model: The network, from maps to logits.
        recipe: Decides loss, optimiser, schedule and memory layout.
        num_classes: Number of classes.
        steps_per_epoch: Optimiser steps in an epoch, for the schedule.
        several: Whether a sample may have several classes.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, num_classes: int, steps_per_epoch: int, several: bool = False
    ) -> None:
        score: dict[str, nn.Module] = (
            {"map": MeanAveragePrecision(num_classes)}
            if several
            else {"accuracy": MulticlassAccuracy(num_classes, average="micro")}
        )
        super().__init__(model, recipe, steps_per_epoch, nn.ModuleDict({"loss": MeanMetric("error")} | score))
        self.num_classes = num_classes
        self.several = several
        optim = recipe.optim
        self.mix = (
            Mixup(
                optim.mixup,
                optim.cutmix,
                prob=optim.mix_prob,
                switch_prob=optim.mix_switch,
                label_smoothing=0,  # the loss does that
                num_classes=num_classes,
                multi_label=optim.loss == "bce",
            )
            if optim.mixup or optim.cutmix
            else None
        )

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """The least that goes through all stages: the network takes any height and width."""
        return self.recipe.input.channels, 32, 32

    def blank_labels(self, count: int, shape: tuple[int, int, int]) -> Tensor:
        """The first class, or none of several."""
        return torch.zeros(count, self.num_classes) if self.several else torch.zeros(count, dtype=torch.int64)

    def objective(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Loss of maps (B, C, H, W), mixed, and labels (B) or (B, classes), smoothed."""
        optim, pairs = self.recipe.optim, len(labels) // 2 * 2
        targets = class_targets(labels, self.num_classes, optim.loss)
        if self.mix is not None and pairs:
            # timm mixes pairs; an odd batch is one from which an unreadable sample is missing.
            maps, targets = self.mix(maps[:pairs], targets[:pairs])
        return class_loss(self(maps), targets, optim.loss, optim.label_smoothing)

    def count(self, outputs: Tensor, labels: Tensor, scores: dict[str, Metric]) -> None:
        """Count logits (B, classes)."""
        kind = self.recipe.optim.loss
        loss = class_loss(outputs, class_targets(labels, self.num_classes, kind), kind)
        scores["loss"].update(loss, len(labels))
        scores["map" if self.several else "accuracy"].update(class_probabilities(outputs, kind), labels.long())
