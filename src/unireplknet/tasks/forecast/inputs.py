"""Measurements of stations, a CSV file or arrays as of Global Temperature -> windows to forecast from.

A window becomes (variables + calendar) x L x stations; the network's learnable embedding makes the paper's 1 x H x W
map of it (section 3.3), with H W = L D'.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.series.arrays import load_arrays
from unireplknet.data.series.grid import Grid, Window
from unireplknet.data.series.tables import STATIONS, expand_angles, read_csv
from unireplknet.errors import UserError
from unireplknet.modalities.series import Normalise, check_width, fold
from unireplknet.registry import Source
from unireplknet.tasks.forecast.data import ForecastData

logger = logging.getLogger(__name__)

CALENDAR: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hour": lambda times: (times - times.astype("M8[D]")) / np.timedelta64(1, "D"),
    "weekday": lambda times: ((times - np.datetime64("1969-12-29")) / np.timedelta64(7, "D")) % 1,
    "year": lambda times: (times - times.astype("M8[Y]")) / np.timedelta64(366, "D"),
}
"""Cycles that a forecast may know of: a time as a part of the cycle, 0 to 1."""


@dataclass
class ForecastInput:
    """How a stretch of measurements becomes a window to forecast from.

    Args:
        horizon: Rows to foretell.
        past: Rows that a forecast sees, L.
        time: Column of the times, ISO 8601.
        station: Column that names the station; empty where there is one only.
        variables: Columns of numbers to read.
        targets: Variables to foretell; empty for all.
        units: Units of the targets, for reports.
        angles: Variables in degrees: each becomes a sine and a cosine.
        calendar: Cycles that a forecast knows of: hour (of the day), weekday, year.
        step: Time between two rows, such as "1h" or "10min".
        factor: What to multiply the numbers of an array file with; Global Temperature and Wind Speed hold tenths.
        max_missing: Part of a window's past, or of its targets, that may be missing; other windows are left out.
        normalise: What is subtracted from each variable of a window: its "mean" or "last" value; the rest is divided
            by its standard deviation. "mean-shift" and "last-shift" only subtract, "none" leaves the window alone.
        embed_dim: Numbers D' into which each time of a window is embedded; the map has H W = L D'.
        stations_per_map: Stations that share a map; 0 for all.
        linear: Whether a linear forecast is fitted first, of which the network learns the errors.
        drop: Dropout of the numbers of a window before they are embedded; the linear forecast sees all.
        width: Columns of the map; 0 makes it almost square.
    """

    horizon: int = 24
    past: int = 48
    time: str = "time"
    station: str = ""
    variables: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    angles: tuple[str, ...] = ()
    calendar: tuple[Literal["hour", "weekday", "year"], ...] = ("hour",)
    step: str = "1h"
    factor: float = 1.0
    max_missing: float = 0.5
    normalise: Normalise = "mean"
    embed_dim: int = 48
    stations_per_map: int = 0
    linear: bool = True
    drop: float = 0.0
    width: int = 0

    extensions: ClassVar[tuple[str, ...]] = (".csv",)
    channels: ClassVar[int] = 1
    task: ClassVar[str] = "forecasting"

    def __post_init__(self) -> None:
        if self.past < 2 or self.horizon < 1:
            raise UserError(f"input.past is {self.past}, input.horizon {self.horizon}; expected at least 2 and 1")
        if unknown := [name for name in self.targets if name not in self.names]:
            raise UserError(f"input.targets has {unknown[0]!r}, input.variables only {', '.join(self.names)}")
        check_width(self.width, self.past * self.embed_dim)
        if self.units and len(self.units) != len(self.targets):
            raise UserError(f"input.units has {len(self.units)} entries, input.targets has {len(self.targets)}")

    def forecaster(self) -> dict[str, Any]:
        """What decides the shape of a forecaster of such windows, by the names of its arguments."""
        targets = self.targets or self.names
        return {
            "variables": len(self.names),
            "cycles": 2 * len(self.calendar),
            "targets": [self.names.index(name) for name in targets],
            "past": self.past,
            "horizon": self.horizon,
            "map_size": self.map_size,
            "group": self.stations_per_map,
            "normalise": self.normalise,
            "linear": self.linear,
            "drop": self.drop,
        }

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map: H W = L D', and as square as that can be unless ``width`` says otherwise."""
        return fold(self.past * self.embed_dim, self.width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (1, H, W) of the map, which the network itself makes of a window."""
        return self.channels, *self.map_size

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables after angles were taken apart."""
        return expand_angles(self.variables, self.angles)

    def read(self, item: Path | Window) -> Window:
        """Read the last rows of a file, or pass a window on.

        Raises:
            UserError: The file holds no series, or one too short to forecast from.
        """
        return item if isinstance(item, Window) else self.read_grid(item).last(self.past, item)

    def read_grid(self, path: Path) -> Grid:
        """Read a CSV file of one or several stations; see :func:`~unireplknet.data.series.tables.read_csv`."""
        return read_csv(path, self.time, self.station, self.variables, self.angles, self.step)

    def to_map(self, raw: Window) -> Tensor:
        """A window as numbers.

        Args:
            raw: Shape (L, stations, variables).

        Returns:
            Variables and calendar, shape (variables + 2 cycles, L, stations), in the units of the file, NaN where
            nothing was measured.
        """
        return torch.from_numpy(np.concatenate([raw.values.transpose(2, 0, 1), self._cycles(raw)]))

    def _cycles(self, raw: Window) -> np.ndarray:
        angles = [2 * math.pi * CALENDAR[name](raw.times) for name in self.calendar]
        waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
        shape = (len(waves), *raw.values.shape[:2])
        return np.broadcast_to(np.reshape(waves, (*shape[:2], 1)), shape).astype(np.float32)


def load_series(path: Path, inputs: ForecastInput) -> ForecastData:
    """Measurements to forecast: a CSV file, a folder with one, or a folder of arrays.

    Args:
        path: ``FILE.csv``; a folder with one CSV file and perhaps a ``stations.csv`` (station, latitude, longitude); or
            a folder of arrays, see :func:`~unireplknet.data.series.arrays.load_arrays`.
        inputs: Columns, lengths and limits.

    Returns:
        The data set, not divided yet.

    Raises:
        UserError: There is no such file, or it is not what it should be: the message names the line.
    """
    if not inputs.variables:
        raise UserError("input.variables is empty: name the columns to read, such as --input.variables [temp]")
    if not path.exists():
        raise UserError(f"{path} does not exist")
    grids = (
        load_arrays(path, inputs.variables, inputs.step, inputs.factor, bool(inputs.calendar))
        if any(path.glob("*_train.npy"))
        else {"all": _load_table(path, inputs)}
    )
    grid = next(iter(grids.values()))
    for name, other in grids.items():
        if (other.stations, other.step) != (grid.stations, grid.step):
            raise UserError(f"{path}: the {name} part has other stations or another step than the first part")
    targets = tuple(inputs.forecaster()["targets"])
    return ForecastData(grids, inputs.past, inputs.horizon, targets, inputs.max_missing)


def _load_table(path: Path, inputs: ForecastInput) -> Grid:
    if path.is_dir():
        tables = sorted(p for p in path.glob("*.csv") if p.name != STATIONS)
        if len(tables) != 1:
            raise UserError(f"{path} has {len(tables)} CSV files beside {STATIONS}; name the one to read")
        path = tables[0]
    grid = inputs.read_grid(path)
    gaps = int(np.isnan(grid.values).sum())
    logger.info("%s: %d times, %d of %d numbers are missing", path, len(grid.values), gaps, grid.values.size)
    return grid


SERIES = Source(load_series)
