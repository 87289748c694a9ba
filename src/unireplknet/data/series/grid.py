"""Measurements at regular times."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unireplknet.errors import UserError


class Window(NamedTuple):
    """A stretch of measurements.

    Attributes:
        values: Shape (L, stations, variables), float32, in the units of the file; NaN where nothing was measured.
        times: Shape (L,), datetime64; empty for a series without times.
    """

    values: np.ndarray
    times: np.ndarray


NO_TIMES = np.empty(0, "M8[s]")
"""Of a series without times."""


@dataclass(frozen=True)
class Grid:
    """Measurements at regular times.

    Attributes:
        start: Time of the first row.
        step: Time between two rows.
        values: Shape (T, stations, variables), float32; NaN where nothing was measured.
        stations: Names of the stations.
        variables: Names of the variables.
        coordinates: Latitude and longitude of each station in degrees, shape (stations, 2), or None.
        factor: What to multiply the values with: they may be a mapped file of tenths.
    """

    start: np.datetime64
    step: np.timedelta64
    values: np.ndarray
    stations: tuple[str, ...]
    variables: tuple[str, ...]
    coordinates: np.ndarray | None = None
    factor: float = 1.0

    def rows(self, first: int, end: int) -> np.ndarray:
        """Measurements of some rows, shape (end - first, stations, variables), float32."""
        return np.asarray(self.values[first:end], dtype=np.float32) * np.float32(self.factor)

    @property
    def times(self) -> np.ndarray:
        """The time of each row."""
        return self.start + np.arange(len(self.values)) * self.step

    @property
    def rows_a_day(self) -> int:
        """Rows in 24 hours, at least 1."""
        return max(1, round(np.timedelta64(1, "D") / self.step))

    def last(self, length: int, name: str | Path = "the series") -> Window:
        """The newest rows.

        Args:
            length: How many.
            name: What to call the measurements in a message.

        Raises:
            UserError: There are fewer than ``length``.
        """
        if len(self.values) < length:
            raise UserError(f"{name} has {len(self.values)} times, a forecast needs the last {length}")
        return Window(self.rows(len(self.values) - length, len(self.values)), self.times[-length:])
