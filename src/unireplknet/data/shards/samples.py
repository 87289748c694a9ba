"""Files that lie inside larger ones, as samples do in a shard, read where they lie."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np


class MemberFile(io.BytesIO):
    """The content of a member as an open file that also answers what readers ask of a path.

    Args:
        content: The bytes.
        name: The name inside the archive.
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
        """All of it."""
        return self.getvalue()

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of it as text."""
        return self.getvalue().decode(encoding)


@dataclass(frozen=True, slots=True)
class Member:
    """A stretch of a file that is a file in its own right.

    Attributes:
        archive: The larger file.
        name: The name inside it.
        offset: Where its bytes begin.
        size: How many there are.
    """

    archive: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}:{self.name}"

    def open(self) -> MemberFile:
        """Read it.

        Raises:
            OSError: The archive cannot be read, or ends too early.
        """
        # No file is kept open: a forked worker would share its position.
        with self.archive.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) != self.size:
            raise OSError(f"{self.archive} ends {self.size - len(content)} bytes too early")
        return MemberFile(content, self.name)


@dataclass(frozen=True, eq=False)
class Members(Sequence[Member]):
    """Millions of members in a few arrays, which workers share without copying.

    Attributes:
        archives: The larger files.
        archive: Index of the larger file of each member, shape (N,), integer.
        names: Their names, shape (N,), of numpy's StringDType.
        offsets: Where their bytes begin, shape (N,), integer.
        sizes: How many there are, shape (N,), integer.
    """

    archives: tuple[Path, ...]
    archive: np.ndarray
    names: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray

    def __len__(self) -> int:
        return len(self.archive)

    @overload
    def __getitem__(self, index: int) -> Member: ...
    @overload
    def __getitem__(self, index: slice) -> Members: ...
    def __getitem__(self, index: int | slice) -> Member | Members:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        archive = self.archives[self.archive[index]]
        return Member(archive, str(self.names[index]), int(self.offsets[index]), int(self.sizes[index]))

    def __iter__(self) -> Iterator[Member]:
        return (self[index] for index in range(len(self)))

    def take(self, indices: np.ndarray) -> Members:
        """The members at ``indices``, in that order."""
        columns = (self.archive, self.names, self.offsets, self.sizes)
        return Members(self.archives, *(column[indices] for column in columns))
