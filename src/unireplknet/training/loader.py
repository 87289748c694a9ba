"""From a recipe and a split to batches of maps."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch.utils.data import DataLoader

from unireplknet.data.dataset import MapDataset
from unireplknet.data.sampler import EpochSampler
from unireplknet.data.shards.samples import ShardSamples
from unireplknet.data.split import AnySplit
from unireplknet.errors import UserError
from unireplknet.modalities.base import collate_of, views_of
from unireplknet.training.recipe import Recipe


def build_loader(
    recipe: Recipe, split: AnySplit, augment: bool = False, rank: int = 0, world: int = 1, views: bool = False
) -> DataLoader[Any]:
    """The batches of one split.

    Args:
        recipe: How samples become maps, and how many go into a batch.
        split: The samples.
        augment: Whether to shuffle and change samples as in training.
        rank: Number of the process.
        world: Number of processes; each gets its part.
        views: Whether to look at samples from several sides, where the modality does: batches are then of shape
            (B, V, C, H, W).

    Raises:
        UserError: A step cannot be divided among the processes, or there are too few samples to.
    """
    optim = recipe.optim
    batch = optim.device_batch(world)
    if augment and len(split) < optim.batch_size and batch < optim.batch_size:
        raise UserError(f"optim.batch_size is {optim.batch_size}, there are {len(split)} samples to train with")
    evaluated = views_of(recipe.input) if views else recipe.input.to_map
    to_map = recipe.augment.bind(recipe.input) if augment else evaluated
    seed, window = recipe.trainer.seed, recipe.data.window
    shards = split.items.shard_index if isinstance(split.items, ShardSamples) else None
    if augment and window and shards is None:
        raise UserError(f"data.window is {window}, which only data.source shards has a use for")
    whole = optim.batch_size if augment else 1
    return DataLoader(
        MapDataset(split, recipe.input.read, to_map, seed),
        batch_size=batch,
        sampler=EpochSampler(len(split), augment, seed, whole, shards, window, rank, world),
        num_workers=recipe.data.workers,
        persistent_workers=recipe.data.workers > 0,
        collate_fn=collate_of(recipe.input),
    )


def steps_per_epoch(recipe: Recipe, split: Sized) -> int:
    """Optimiser steps in an epoch; :func:`build_loader` gives ``optim.accumulate`` training batches to each."""
    return max(1, len(split) // recipe.optim.batch_size)


def go_on(loader: DataLoader[Any], epoch: int, batch: int) -> None:
    """Let a loader begin where an interrupted run was: Lightning would replay the first batches of the first epoch.

    Args:
        loader: A loader of :func:`build_loader`.
        epoch: The epoch that was interrupted.
        batch: How many of its batches were used.
    """
    assert isinstance(loader.sampler, EpochSampler)
    assert loader.batch_size is not None
    loader.sampler.resume(epoch, batch * loader.batch_size)
