"""From a recipe and a split to batches of maps."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader

from unireplknet.modalities.folder import EpochSampler, MapDataset, Split, collate
from unireplknet.training.recipe import Recipe


def build_loader(recipe: Recipe, split: Split, augment: bool = False) -> DataLoader[Any]:
    """The batches of one split.

    Args:
        recipe: How samples become maps, and how many go into a batch.
        split: The samples.
        augment: Whether to shuffle and change samples as in training.
    """
    to_map = recipe.augment.bind(recipe.input) if augment else recipe.input.to_map
    seed = recipe.trainer.seed
    return DataLoader(
        MapDataset(split, recipe.input.read, to_map, seed),
        batch_size=recipe.optim.batch_size,
        sampler=EpochSampler(len(split), shuffle=augment, seed=seed),
        # A last batch of a few samples would give poor batch statistics.
        drop_last=augment and len(split) >= recipe.optim.batch_size,
        num_workers=recipe.data.workers,
        persistent_workers=recipe.data.workers > 0,
        collate_fn=collate,
    )


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
