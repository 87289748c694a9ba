"""Windows over the measurements of several stations: how they are divided by time and become samples."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.series.gaps import nan_mean
from unireplknet.data.series.grid import Grid, Window
from unireplknet.data.split import split_parts
from unireplknet.errors import UserError

logger = logging.getLogger(__name__)


Extent = tuple[Grid, int, int]
"""Measurements with the first row that counts and the row after the last one."""


@dataclass(frozen=True)
class WindowSplit:
    """The windows whose targets lie in one stretch of time. A sequence of :class:`Window`: the past of each.

    Attributes:
        grid: The measurements.
        first: First row that belongs to the split.
        end: The row after its last one.
        origins: Row of each window's first target; the past lies before it, maybe before ``first``.
        past: Rows that a forecast sees.
        horizon: Rows that it has to foretell.
        targets: Positions of the variables to foretell.
        left_out: Windows that were left out for their gaps.
    """

    grid: Grid
    first: int
    end: int
    origins: np.ndarray
    past: int
    horizon: int
    targets: tuple[int, ...]
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.origins)

    def __getitem__(self, index: int) -> Window:
        origin = int(self.origins[index])
        times = self.grid.start + np.arange(origin - self.past, origin) * self.grid.step
        return Window(self.grid.rows(origin - self.past, origin), times)

    @property
    def items(self) -> WindowSplit:
        """The raw samples."""
        return self

    def label(self, index: int) -> Tensor:
        """What is to be foretold: shape (horizon, stations, targets), float32; NaN where nothing was measured."""
        origin = int(self.origins[index])
        return torch.from_numpy(self.grid.rows(origin, origin + self.horizon)[..., list(self.targets)])

    def measurements(self) -> np.ndarray:
        """The measurements of the split's own stretch of time, shape (rows, stations, variables)."""
        return self.grid.rows(self.first, self.end)

    def name(self, index: int) -> str:
        """What to call a window in a message: the time of its first target."""
        return f"the window before {self.grid.start + int(self.origins[index]) * self.grid.step}"

    def fingerprint(self) -> str:
        """A short hash of which samples these are, to notice that a split has changed since a run."""
        digest = hashlib.sha256(repr((self.grid.stations, self.grid.variables, self.grid.start)).encode())
        for array in (self.origins, self.measurements()):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class ForecastData:
    """A data set to forecast.

    Attributes:
        grids: ``{"all": ...}``, to be divided by time, or one grid each for some of train, val and test.
        past: Rows that a forecast sees.
        horizon: Rows that it has to foretell.
        targets: Positions of the variables to foretell.
        max_missing: Part of a window's past or of its targets that may be missing.
        splits: The windows, once divided.
    """

    grids: dict[str, Grid]
    past: int
    horizon: int
    targets: tuple[int, ...]
    max_missing: float = 0.5
    splits: dict[str, WindowSplit] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """The grid that holds the training windows."""
        return self.grids.get("train") or self.grids["all"]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stations."""
        return self.grid.stations

    def split(self, val_fraction: float, test_fraction: float, seed: int = 0) -> ForecastData:
        """Divide by time: train, then val, then test.

        The targets of a window lie in one split alone. Its past may lie in the split before, as it does when a
        forecast is made; no training window sees anything of val or test.

        Args:
            val_fraction: Part of the training time to choose the epoch with, unless there is a grid for it.
            test_fraction: Part of the whole time to test with, unless the data are divided already.
            seed: Without effect: time decides.

        Raises:
            UserError: A split has no window, for its length or its gaps.
        """

        def cut(part: Extent, fraction: float, _: str) -> tuple[Extent, Extent]:
            grid, first, end = part
            middle = end - round(fraction * (end - first))
            return (grid, first, middle), (grid, middle, end)

        whole = {name: (grid, 0, len(grid.values)) for name, grid in self.grids.items()}
        bounds = split_parts(whole, cut, val_fraction, test_fraction)
        splits = {name: self._windows(name, *part) for name, part in bounds.items()}
        return replace(self, splits=splits)

    def _windows(self, name: str, grid: Grid, first: int, end: int) -> WindowSplit:
        origins = np.arange(max(first, self.past), end - self.horizon + 1)
        missing, missing_targets = _missing(grid.values, list(self.targets))
        before = missing[origins] - missing[origins - self.past]
        after = missing_targets[origins + self.horizon] - missing_targets[origins]
        numbers = grid.values[0].size, grid.values[0, :, list(self.targets)].size
        good = before <= self.max_missing * self.past * numbers[0]
        good &= after <= self.max_missing * self.horizon * numbers[1]
        if not good.any():
            raise UserError(
                f"the {name} split has {end - first} times and no usable window of {self.past} + {self.horizon};"
                f" {len(origins)} windows have too many gaps (input.max_missing is {self.max_missing})"
            )
        left_out = int((~good).sum())
        if left_out:
            logger.info("%s: %d of %d windows are left out for their gaps", name, left_out, len(good))
        return WindowSplit(grid, first, end, origins[good], self.past, self.horizon, self.targets, left_out)


class Statistics(NamedTuple):
    """What is known of each variable, shape (V,) each, in the units of the file.

    Attributes:
        mean: Mean over stations and time.
        std: Standard deviation.
        change: Root mean square of the change over the horizon.
    """

    mean: Tensor
    std: Tensor
    change: Tensor


def statistics(split: WindowSplit) -> Statistics:
    """Statistics of one split's own stretch of time, and of nothing else."""
    rows = split.measurements()
    mean = nan_mean(rows, (0, 1))
    variance = nan_mean(np.square(rows - mean), (0, 1))
    change = nan_mean(np.square(rows[split.horizon :] - rows[: -split.horizon]), (0, 1))
    stds = [np.where(square > 0, np.sqrt(square), 1) for square in (variance, change)]
    return Statistics(*(torch.tensor(part, dtype=torch.float32) for part in (mean, *stds)))


def _missing(values: np.ndarray, targets: Sequence[int], block: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Numbers missing before each row, of all variables and of the targets. A block at a time: it may be mapped."""
    parts = [np.isnan(values[i : i + block]) for i in range(0, len(values), block)]
    counts = np.concatenate([[part.sum((1, 2)), part[..., targets].sum((1, 2))] for part in parts], axis=1)
    total = np.cumsum(np.pad(counts, ((0, 0), (1, 0))), axis=1)
    return total[0], total[1]
