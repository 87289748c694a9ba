"""Samples inside shards, read in place."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np


class ShardFile(io.BytesIO):
    """The content of a shard sample as an open file that also answers what readers ask of a path.

    Args:
        content: The bytes.
        name: The name inside the shard.
    """

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.parent = PurePosixPath(name).parent
        self.name = PurePosixPath(name).name
        self.suffix = PurePosixPath(name).suffix

    def __repr__(self) -> str:
        # Libraries put it into their messages; an address in memory would make each a different one.
        return repr(self.name)

    def read_bytes(self) -> bytes:
        """Return the whole content."""
        return self.getvalue()

    def read_text(self, encoding: str = "utf-8") -> str:
        """Return the whole content as text."""
        return self.getvalue().decode(encoding)


@dataclass(frozen=True, slots=True)
class ShardSample:
    """A range of bytes in a shard that is a file of its own.

    Attributes:
        shard: The shard.
        name: The name inside it.
        offset: Where its bytes begin.
        size: Number of bytes.
    """

    shard: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def open(self) -> ShardFile:
        """Read it.

        Raises:
            OSError: The shard cannot be read, or is too short.
        """
        # No file is kept open: a forked worker would share its position.
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self.shard} is {self.size - len(content)} bytes too short")
        return ShardFile(content, self.name)


@dataclass(frozen=True, eq=False)
class ShardSamples(Sequence[ShardSample]):
    """Millions of shard samples in a few arrays, which workers share without copying.

    Attributes:
        shards: The shards.
        shard_index: Index of the shard of each sample, shape (N,), integer.
        names: Their names, shape (N,), of numpy's StringDType.
        offsets: Where their bytes begin, shape (N,), integer.
        sizes: Number of bytes of each, shape (N,), integer.
    """

    shards: tuple[Path, ...]
    shard_index: np.ndarray
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.shard_index)

    @overload
    def __getitem__(self, index: int) -> ShardSample: ...
    @overload
    def __getitem__(self, index: slice) -> ShardSamples: ...
    def __getitem__(self, index: int | slice) -> ShardSample | ShardSamples:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        shard = self.shards[self.shard_index[index]]
        return ShardSample(shard, str(self.names[index]), int(self.offsets[index]), int(self.sizes[index]))

    def __iter__(self) -> Iterator[ShardSample]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: np.ndarray) -> ShardSamples:
        """Return the samples at ``indices``, in that order."""
        columns = (self.shard_index, self.names, self.offsets, self.sizes)
        return ShardSamples(self.shards, *(column[indices] for column in columns))
