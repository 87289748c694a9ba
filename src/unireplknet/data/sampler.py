"""The order in which an epoch visits the samples."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from unireplknet.data.dataset import Draw


class EpochSampler(Sampler[Draw]):
    """The order of one epoch, a function of (seed, epoch), and one process's part of it.

    Args:
        length: Number of samples.
        shuffle: Whether to permute them, differently in every epoch.
        seed: Seed of the permutation.
        whole: Leave out the last samples so that the rest is a multiple of this, unless there are fewer: a last batch
            of a few samples would give poor batch statistics.
        shards: Index of the shard of each sample, shape (length,), to read few of them at a time.
        window: Shards whose samples are mixed before the next ones follow; 0 mixes all.
        rank: Number of the process.
        world: Number of processes. Together they take the same samples in the same steps as one process would.
    """

    def __init__(
        self,
        length: int,
        shuffle: bool,
        seed: int = 0,
        whole: int = 1,
        shards: np.ndarray | None = None,
        window: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length = length
        self.used = length - length % whole if length >= whole else length
        self.shuffle = shuffle
        self.seed = seed
        self.shards = shards
        self.window = window
        self.rank = rank
        self.world = world
        self.epoch = 0
        self._resumed = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch to iterate over next; Lightning calls this."""
        self.epoch = epoch

    def resume(self, epoch: int, samples: int) -> None:
        """Begin with an epoch that was interrupted, without the samples that were used before.

        Args:
            epoch: The epoch that was interrupted.
            samples: How many of its samples this process has used.
        """
        self.epoch = epoch
        self._resumed = (epoch, samples)

    def __len__(self) -> int:
        return len(range(self.rank, self.used, self.world))

    def __iter__(self) -> Iterator[Draw]:
        epoch = self.epoch  # loader workers ask ahead, and the epoch may be set in the meantime
        order = np.arange(self.length)
        if self.shuffle:
            generator = np.random.default_rng((self.seed, epoch))
            generator.shuffle(order)
            if self.window and self.shards is not None:
                places = generator.permutation(int(self.shards.max(initial=0)) + 1)
                order = order[np.argsort(places[self.shards[order]] // self.window, kind="stable")]
        interrupted, samples = self._resumed
        done = samples if interrupted == epoch else 0
        return (Draw(epoch, int(index)) for index in order[: self.used][self.rank :: self.world][done:])
