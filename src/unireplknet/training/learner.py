"""What is learned, as a LightningModule: what the learners of all tasks share."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from copy import deepcopy
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchmetrics import MeanMetric, Metric

from unireplknet.data.dataset import Batch
from unireplknet.data.split import DataSet
from unireplknet.errors import UserError
from unireplknet.randomness import seed_from
from unireplknet.training.checkpoint import SECTION
from unireplknet.training.optim import build_optimizer, build_schedule, rate_of
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


class Learner(pl.LightningModule, ABC):
    """What the learners of all tasks share: optimiser, schedule, and runs that go on after a crash.

    Every step draws its random numbers (drop path, dropout, ...) from a seed of its own, so that a run that goes on
    after a crash draws the same ones: there is no state of a generator to keep.

    Args:
        model: The network.
        recipe: Decides loss, optimiser, schedule and memory layout.
        steps_per_epoch: Optimiser steps in an epoch, for the schedule.
        scores: Metrics of the val split by their names, "loss" among them.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, steps_per_epoch: int, scores: nn.ModuleDict) -> None:
        super().__init__()
        self.layout = torch.channels_last if recipe.trainer.channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.layout)
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        # Not "disable", with which torchmetrics 1.9 ignores the weights.
        self.loss = MeanMetric("error")
        self.loss.persistent(True)  # the mean of an interrupted epoch is the mean of all of it
        self.scores = scores
        if recipe.optim.ema:  # then those are of the average
            self.raw_scores = deepcopy(scores)
        self.unreadable: set[str] = set()
        self.scored = 0

    @property
    @abstractmethod
    def map_shape(self) -> tuple[int, int, int]:
        """Shape of a map that the network takes, for batches without samples."""

    @abstractmethod
    def blank_labels(self, count: int, shape: tuple[int, int, int]) -> Any:
        """Labels of the right shape and type for maps of a shape, for steps without samples."""

    def forward(self, maps: Any) -> Any:
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

    def on_validation_epoch_start(self) -> None:
        """Stop a training that could read nothing, before anything counts as its best epoch.

        Raises:
            UserError: No sample of an epoch could be read.
        """
        self.scored = 0
        self._stop_without_samples("training", int(self.loss.weight > 0))

    def on_validation_epoch_end(self) -> None:
        """Stop a training whose epochs cannot be compared.

        Raises:
            UserError: No sample of the val split could be read.
        """
        self._stop_without_samples("val", self.scored)

    def _stop_without_samples(self, split: str, count: int) -> None:
        found = self.trainer.strategy.reduce(torch.tensor(count, device=self.device), reduce_op="sum")
        if not found:
            first = f"; the first: {min(self.unreadable)}" if self.unreadable else ""
            raise UserError(f"none of the {split} samples could be read{first}")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Make the random numbers of the step a function of (seed, epoch, batch, process)."""
        seed_from(self.recipe.trainer.seed, self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """The loss of one batch; None where no sample of it was readable, unless other processes wait for gradients.

        Raises:
            LossNotFinite: The loss is infinite or not a number.
        """
        self._note(batch.problems)
        size = len(batch.labels)
        if size == 0:
            if self._trainer is None or self.trainer.world_size == 1:
                return None
            self.log("train/loss", self.loss, on_step=False, on_epoch=True)
            return self.no_loss()
        loss = self.objective(batch.maps, batch.labels)
        if not torch.isfinite(loss):
            lr = rate_of(self.trainer.optimizers[0])
            raise LossNotFinite(loss.item(), self.global_step, lr, batch.indices.tolist())
        self.loss.update(loss.detach(), size)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=False)
        self.log("train/loss", self.loss, on_step=False, on_epoch=True)
        return loss

    def no_loss(self) -> Tensor:
        """No samples give no loss and gradients of zero, but take part in everything that all processes do."""
        return self(torch.empty(0, *self.map_shape, device=self.device)).sum()

    @abstractmethod
    def objective(self, maps: Any, labels: Any) -> Tensor:
        """What training minimises, of at least one map (C, H, W) and what is to be learnt of it."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Score the samples that choose the epoch."""
        self._note(batch.problems)
        self.score(batch, self)

    def score(self, batch: Batch, network: nn.Module, raw: bool = False) -> None:
        """Count a batch of the val split.

        Args:
            batch: The samples.
            network: What is scored.
            raw: Whether it has the weights as they are trained, where what is kept is their average.

        Raises:
            UserError: The network gives infinities or no numbers.
        """
        size = len(batch.labels)
        scores = cast("dict[str, Metric]", self.raw_scores if raw else self.scores)
        if size:
            self.scored += size
            outputs = network(batch.maps)
            if not all(part.isfinite().all() for part in tree_leaves(outputs)):
                raise UserError(
                    f"the network gives no finite numbers on the val split after step {self.global_step};"
                    " a lower optim.lr or an optim.clip_grad may help"
                )
            self.count(outputs, batch.labels, scores)
        # Without samples too: what is logged, all processes compute together.
        for name, metric in scores.items():
            self.log(f"val/{name}{'_raw' if raw else ''}", metric, prog_bar=not raw, batch_size=size)

    @abstractmethod
    def count(self, outputs: Any, labels: Any, scores: dict[str, Metric]) -> None:
        """Update ``scores`` with what the network said of at least one sample."""

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


def build_learner(recipe: Recipe, data: DataSet, steps_per_epoch: int) -> Learner:
    """The network of a recipe, and what it is to learn from the data.

    Args:
        recipe: The recipe.
        data: The data set, divided.
        steps_per_epoch: Optimizer steps in an epoch, for the schedule.

    Raises:
        UserError: The recipe contradicts itself or the data.
    """
    task = recipe.task
    task.check_data(recipe, data)
    model = recipe.build(data.names)
    recipe.trainer.prepare(model)
    task.prepare(model, recipe, data)
    return task.learner(model, recipe, len(data.names), steps_per_epoch, data)
