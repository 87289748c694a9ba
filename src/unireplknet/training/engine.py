"""Lightning's Trainer, set up by a recipe."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import FSDPStrategy

from unireplknet.errors import UserError
from unireplknet.nn.blocks import UniRepLKBlock
from unireplknet.training.callbacks import Averaging, Bar, Curves, EpochTable, Keeper, Pace
from unireplknet.training.checkpoint import SafeCheckpointIO
from unireplknet.training.recipe import Recipe


def build_trainer(recipe: Recipe, path: Path, steps_per_epoch: int) -> pl.Trainer:
    """The engine of one run.

    Args:
        recipe: Its ``trainer`` part decides device, precision and choice of the epoch.
        path: The run folder, for logs and checkpoints.
        steps_per_epoch: Optimiser steps in an epoch.

    Returns:
        A trainer that writes metrics.csv, tensorboard/, best.ckpt, last.ckpt and previous.ckpt.

    Raises:
        UserError: This machine has no such device or precision.
    """
    bar = recipe.trainer.progress and sys.stdout.isatty()  # where Lightning draws it
    try:
        return pl.Trainer(
            accelerator=recipe.trainer.accelerator,
            devices=recipe.trainer.devices,
            num_nodes=recipe.trainer.nodes,
            strategy=_strategy(recipe),
            precision=recipe.trainer.precision,
            max_epochs=recipe.optim.epochs,
            gradient_clip_val=recipe.optim.clip_grad or None,
            accumulate_grad_batches=recipe.optim.accumulate,
            logger=TensorBoardLogger(path, name="", version="tensorboard"),
            callbacks=_callbacks(recipe, path, bar),
            plugins=_plugins(),
            enable_progress_bar=bar,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, steps_per_epoch),
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def _callbacks(recipe: Recipe, path: Path, bar: bool) -> list[pl.Callback]:
    pace, ema, scores, select = Pace(), recipe.optim.ema, recipe.task.scores, recipe.trainer.select
    higher = select in scores and scores[select].higher_is_better
    callbacks: list[pl.Callback] = [
        pace,
        EpochTable(path / "metrics.csv", scores, pace, averaged=bool(ema), announce=not bar),
        Curves(path, scores),
        Keeper(path, select, higher, recipe.trainer.save_minutes),
    ]
    if ema:
        callbacks.append(Averaging(decay=ema))
    if bar:
        callbacks.append(Bar(pace))
    return callbacks


def _strategy(recipe: Recipe) -> Any:
    if recipe.trainer.strategy != "fsdp":
        return recipe.trainer.strategy
    # Not run: it needs several GPUs.
    if recipe.optim.ema:
        raise UserError("optim.ema averages whole networks; set it to 0 with trainer.strategy fsdp, or use ddp")
    return FSDPStrategy(auto_wrap_policy={UniRepLKBlock}, state_dict_type="full")


def _plugins() -> list[Any]:
    plugins: list[Any] = [SafeCheckpointIO()]
    if SLURMEnvironment.detect():
        # Lightning would write checkpoints of its own beside the run and requeue the job behind the scheduler's back.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's greetings and its advice on loader workers out of the log."""
    noisy = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
            # Gradients of 1x1 kernels in another memory order than their own: the same numbers.
            warnings.filterwarnings("ignore", message=".*Grad strides do not match bucket view strides.*")
            # The sampler has been told where to go on.
            warnings.filterwarnings("ignore", message=".*your dataloader is not resumable.*")
            yield
    finally:
        for log, level in zip(noisy, levels, strict=True):
            log.setLevel(level)
