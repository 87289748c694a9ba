"""The learning task as a LightningModule."""

from __future__ import annotations

import logging
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from timm.data import Mixup
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from unireplknet.errors import UserError
from unireplknet.modalities.folder import Batch, Labelled
from unireplknet.modalities.windows import Windowed, statistics
from unireplknet.models.forecaster import Forecaster, masked_loss
from unireplknet.randomness import seed_from
from unireplknet.training.baselines import table, without_gaps
from unireplknet.training.checkpoint import SECTION
from unireplknet.training.optim import build_optimizer, build_schedule
from unireplknet.training.recipe import Recipe

logger = logging.getLogger(__name__)


class LossNotFinite(Exception):
    """The loss of a batch is infinite or not a number.

    Args:
        loss: The loss.
        step: Optimiser steps taken before.
        lr: Learning rate of this one.
        indices: The batch, as positions in the train split.
    """

    def __init__(self, loss: float, step: int, lr: float, indices: list[int]) -> None:
        super().__init__(f"the loss is {loss} at step {step} (learning rate {lr:.3g})")
        self.loss = loss
        self.step = step
        self.lr = lr
        self.indices = indices


class Task(pl.LightningModule):
    """What all tasks share: optimiser, schedule, and runs that go on after a crash.

    Every step draws its random numbers (drop path, dropout, ...) from a seed of its own, so that a run that goes on
    after a crash draws the same ones: there is no state of a generator to keep.

    Args:
        model: The network.
        recipe: Decides loss, optimiser, schedule and memory layout.
        steps_per_epoch: Optimiser steps in an epoch, for the schedule.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps_per_epoch: int) -> None:
        super().__init__()
        self.layout = torch.channels_last if recipe.trainer.channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.layout)
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        # Not "disable", with which torchmetrics 1.9 ignores the weights.
        self.loss = MeanMetric("error")
        self.loss.persistent(True)  # the mean of an interrupted epoch is the mean of all of it
        self.val_loss = MeanMetric("error")
        self.unreadable: set[str] = set()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, C, H, W) to what the network says of them."""
        return self.model(maps.contiguous(memory_format=self.layout))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the checkpoint is of, and how far the run has come."""
        loop = self.trainer.fit_loop
        checkpoint[SECTION] = {
            "settings": self.recipe.settings(),
            "epoch": loop.epoch_progress.current.processed,  # type: ignore[attr-defined]
            "batch": (loop.batch_idx + 1) % int(self.trainer.num_training_batches),
            "unreadable": sorted(self.unreadable),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember which samples were unreadable."""
        self.unreadable.update(checkpoint[SECTION]["unreadable"])

    def on_train_epoch_start(self) -> None:
        """Begin a new mean; an interrupted epoch does not pass here again."""
        self.loss.reset()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make the random numbers of the step a function of (seed, epoch, batch, process)."""
        seed_from(self.recipe.trainer.seed, self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """The loss of one batch; None where no sample of it was readable.

        Raises:
            LossNotFinite: The loss is infinite or not a number.
        """
        self._note(batch.problems)
        size = len(batch.labels)
        if size == 0:
            if self._trainer is not None and self.trainer.world_size > 1:
                raise UserError("none of the samples of a batch could be read, and the other devices wait for it")
            return None
        loss = self.batch_loss(batch)
        if not torch.isfinite(loss):
            lr = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise LossNotFinite(loss.item(), self.global_step, lr, batch.indices.tolist())
        self.loss.update(loss.detach(), size)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        self.log("train/loss", self.loss, on_step=False, on_epoch=True)
        return loss

    def batch_loss(self, batch: Batch) -> Tensor:
        """The loss that is minimised."""
        raise NotImplementedError

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the samples that choose the epoch."""
        self._note(batch.problems)
        if len(batch.labels):
            self.validate(batch)

    def validate(self, batch: Batch) -> None:
        """Log loss and score of a batch with at least one sample."""
        raise NotImplementedError

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
            if len(self.unreadable) > self.recipe.data.max_unreadable:
                limit = self.recipe.data.max_unreadable
                raise UserError(f"more than data.max_unreadable = {limit} samples are unreadable; the last: {problem}")


class Classification(Task):
    """Learns to tell classes apart.

    Args:
        model: The network, from maps to logits.
        recipe: Decides loss, optimiser, schedule and memory layout.
        num_classes: Number of classes.
        steps_per_epoch: Optimiser steps in an epoch, for the schedule.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int, steps_per_epoch: int) -> None:
        super().__init__(model, recipe, steps_per_epoch)
        optim = recipe.optim
        self.mix = (
            Mixup(
                optim.mixup,
                optim.cutmix,
                switch_prob=optim.mix_switch,
                label_smoothing=optim.label_smoothing,
                num_classes=num_classes,
            )
            if optim.mixup or optim.cutmix
            else None
        )
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    def batch_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy with smoothed or mixed labels."""
        maps, labels = batch.maps, batch.labels
        pairs = len(labels) // 2 * 2
        if self.mix is None or not pairs:
            return F.cross_entropy(self(maps), labels, label_smoothing=self.recipe.optim.label_smoothing)
        # timm mixes pairs; an odd batch is one from which an unreadable sample is missing.
        mixed, targets = self.mix(maps[:pairs], labels[:pairs])
        logits = self(mixed)
        return F.cross_entropy(logits, targets.to(logits.dtype))

    def validate(self, batch: Batch) -> None:
        """Log cross-entropy and accuracy."""
        size = len(batch.labels)
        logits = self(batch.maps)
        self.accuracy(logits, batch.labels)
        self.val_loss.update(F.cross_entropy(logits, batch.labels), size)
        self.log("val/loss", self.val_loss, prog_bar=True, batch_size=size)
        self.log("val/accuracy", self.accuracy, prog_bar=True, batch_size=size)


class Forecasting(Task):
    """Learns to foretell numbers.

    Args:
        model: A :class:`~unireplknet.models.forecaster.Forecaster`, from windows to forecasts in physical units.
        recipe: Decides loss, optimiser, schedule and memory layout.
        steps_per_epoch: Optimiser steps in an epoch, for the schedule.
    """

    model: Forecaster

    def __init__(self, model: Forecaster, recipe: Recipe, steps_per_epoch: int) -> None:
        super().__init__(model, recipe, steps_per_epoch)
        self.kind = recipe.optim.regression
        self.mae = MeanMetric("error")

    def batch_loss(self, batch: Batch) -> Tensor:
        """Mean loss of what was measured, in units of the change over the horizon."""
        loss, count = masked_loss(self(batch.maps), batch.labels, self.model.unit, self.kind)
        return loss / count.clamp_min(1)

    def validate(self, batch: Batch) -> None:
        """Log the loss and the mean absolute error, both in units of the change over the horizon."""
        forecast = self(batch.maps)
        for name, metric, kind in (("loss", self.val_loss, self.kind), ("mae", self.mae, "mae")):
            loss, count = masked_loss(forecast, batch.labels, self.model.unit, kind)
            metric.update(loss / count.clamp_min(1), count)
            self.log(f"val/{name}", metric, prog_bar=True, batch_size=len(batch.labels))


def build_task(recipe: Recipe, data: Labelled | Windowed, steps_per_epoch: int) -> Task:
    """The network and what it is to learn from the data."""
    model = recipe.build(data.names)
    recipe.trainer.prepare(model)
    if isinstance(model, Forecaster) and isinstance(data, Windowed):
        model.set_statistics(*statistics(data.splits["train"]), data.grid.coordinates)
        tables = [table(data.splits[name], recipe.input.to_map) for name in ("train", "val")]
        complete = [torch.from_numpy(part) for x, _, y in tables for part in (x, without_gaps(x, y, model.targets))]
        model.fit_linear(*complete)
        return Forecasting(model, recipe, steps_per_epoch)
    return Classification(model, recipe, len(data.names), steps_per_epoch)
