"""From samples of a split to batches of maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unireplknet.data.shards.samples import ShardSample
from unireplknet.data.split import AnySplit
from unireplknet.errors import UserError
from unireplknet.randomness import random_state


@dataclass(frozen=True)
class Draw:
    """Which sample, in which epoch: all that decides a training map, together with the seed."""

    epoch: int
    index: int


@dataclass(frozen=True)
class Sample:
    """One map, or the reason why there is none."""

    map: Tensor | None
    label: Any
    index: int
    problem: str = ""


class Batch(NamedTuple):
    """A batch of maps.

    Attributes:
        maps: Shape (B, C, H, W), float32, or (B, V, C, H, W) where samples are looked at from several sides; of
            detectors B maps (C, H, W), since they have all sizes. B is smaller than asked for where samples were
            unreadable.
        labels: Class indices, shape (B,), int64; or what else is to be learnt of the samples, one each.
        indices: Positions in the split, shape (B,), int64.
        problems: One line for each sample that could not be read.
    """

    maps: Any
    labels: Any
    indices: Tensor
    problems: list[str]


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples, leaving out the unreadable ones."""
    good = [s for s in samples if s.map is not None]
    return Batch(
        torch.stack([s.map for s in good if s.map is not None]) if good else torch.empty(0),
        torch.stack([torch.as_tensor(s.label) for s in good]) if good else torch.empty(0, dtype=torch.int64),
        torch.tensor([s.index for s in good], dtype=torch.int64),
        [s.problem for s in samples if s.map is None],
    )


def collate_apart(samples: Sequence[Sample]) -> Batch:
    """Leave out the unreadable samples, and leave maps and labels of the others apart: they have all sizes."""
    good = [s for s in samples if s.map is not None]
    indices = torch.tensor([s.index for s in good], dtype=torch.int64)
    problems = [s.problem for s in samples if s.map is None]
    return Batch([s.map for s in good], [s.label for s in good], indices, problems)


class MapDataset(Dataset[Sample]):
    """file -> read -> to_map, for every modality.

    Where the label changes with the map, as the mask of an image that is mirrored, ``to_map`` gives both.

    What a sample looks like is a function of (seed, epoch, index) alone: not of the worker that makes it, nor of what
    was drawn before. An unreadable file becomes a sample with a problem instead of an exception.

    Args:
        split: The samples.
        read: Turns an item of the split into a raw sample; of a shard sample it gets the open file.
        to_map: Turns a raw sample into a (C, H, W) tensor, or into that and a label; may draw random numbers.
        seed: Seed of the random numbers.
    """

    def __init__(
        self, split: AnySplit, read: Callable[[Any], Any], to_map: Callable[[Any], Any], seed: int = 0
    ) -> None:
        self.split = split
        self.read = read
        self.to_map = to_map
        self.seed = seed

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, draw: Draw) -> Sample:
        label = self.split.label(draw.index)
        try:
            item = self.split.items[draw.index]
            raw = self.read(item.open() if isinstance(item, ShardSample) else item)
        except Exception as error:  # decoders raise anything; one bad file must not end a run
            return Sample(None, label, draw.index, f"{self.split.name(draw.index)}: {error}")
        with random_state(self.seed, draw.epoch, draw.index):
            try:
                made = self.to_map(raw)
                map, label = made if isinstance(made, tuple) else (made, label)
                return Sample(map, label, draw.index)
            except UserError as error:  # what is decoded on demand may turn out damaged here
                return Sample(None, label, draw.index, f"{self.split.name(draw.index)}: {error}")
