"""The learning task as a LightningModule."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from unireplknet.modalities.folder import Batch
from unireplknet.training.optim import build_optimizer, build_schedule
from unireplknet.training.recipe import Recipe

logger = logging.getLogger(__name__)


class Classification(pl.LightningModule):
    """Learns to tell classes apart.

    Args:
        model: The network, from maps to logits.
        recipe: Decides loss, optimiser, schedule and memory layout.
        num_classes: Number of classes.
        steps_per_epoch: Length of an epoch, for the schedule.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int, steps_per_epoch: int) -> None:
        super().__init__()
        self.layout = torch.channels_last if recipe.trainer.channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.layout)
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.unreadable: set[str] = set()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) to logits (B, classes)."""
        return self.model(maps.contiguous(memory_format=self.layout))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """The loss of one batch; None where no sample of it was readable."""
        self._note(batch.problems)
        size = len(batch.labels)
        if size == 0:
            return None
        loss = F.cross_entropy(self(batch.maps), batch.labels, label_smoothing=self.recipe.optim.label_smoothing)
        self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=size)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss and accuracy on the samples that choose the epoch."""
        self._note(batch.problems)
        size = len(batch.labels)
        if size == 0:
            return
        logits = self(batch.maps)
        self.accuracy(logits, batch.labels)
        self.log("val/loss", F.cross_entropy(logits, batch.labels), prog_bar=True, batch_size=size)
        self.log("val/accuracy", self.accuracy, prog_bar=True, batch_size=size)

    def configure_optimizers(self) -> Any:
        """AdamW, with a learning rate for each step."""
        optim = self.recipe.optim
        optimizer = build_optimizer(self.model, optim)
        schedule = build_schedule(optimizer, optim, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _note(self, problems: list[str]) -> None:
        for problem in set(problems) - self.unreadable:
            self.unreadable.add(problem)
            logger.warning("skipped unreadable sample %d: %s", len(self.unreadable), problem)
