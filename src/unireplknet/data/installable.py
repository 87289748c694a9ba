"""Data sets that can be installed by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol


class Installable(Protocol):
    """A data set that can be downloaded or rendered."""

    @property
    def about(self) -> str:
        """What it is, in a few words."""

    @property
    def license(self) -> str:
        """Under what terms."""

    @property
    def size(self) -> int:
        """Bytes to download."""

    def install(self, out: Path, say: Callable[[str], None]) -> None:
        """Put the data set into a folder.

        Args:
            out: The folder, new or empty.
            say: Receives each line of the report.
        """
