"""Time series: a CSV, the Global Temperature / Wind Speed arrays or a .ts file -> a C x H x W map.

A window to forecast becomes (variables + calendar) x L x stations; the network's learnable embedding makes the paper's
1 x H x W map of it (section 3.3), with H W = L D'. A series to classify is folded into variables x H x W.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.series.arrays import load_arrays
from unireplknet.data.series.gaps import nan_mean
from unireplknet.data.series.grid import NO_TIMES, Grid, Window
from unireplknet.data.series.tables import (
    STATIONS,
    check_order,
    expand_angles,
    read_csv,
    read_numbers,
    read_table,
    read_times,
)
from unireplknet.data.series.ts import read_ts_file
from unireplknet.errors import UserError
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
class SeriesInput:
    """How a stretch of measurements becomes a map.

    Args:
        horizon: Rows to foretell; 0 where series are to be classified.
        past: Rows that a forecast sees, L; a series to be classified is stretched to as many.
        time: Column of the times, ISO 8601.
        station: Column that names the station; empty where there is one only.
        variables: Columns of numbers to read. To classify, they may be left empty: all columns but the time.
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
        channels: Variables of a series to be classified.
        width: Columns of the map, such as a period of the series; 0 makes it almost square.
    """

    horizon: int = 0
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
    normalise: Literal["mean", "last", "mean-shift", "last-shift", "none"] = "mean"
    embed_dim: int = 48
    stations_per_map: int = 0
    linear: bool = True
    drop: float = 0.0
    channels: int = 1
    width: int = 0

    extensions: ClassVar[tuple[str, ...]] = (".csv", ".ts")

    def __post_init__(self) -> None:
        if self.past < 2 or self.horizon < 0:
            raise UserError(f"input.past is {self.past}, input.horizon {self.horizon}; expected at least 2 and 0")
        if self.horizon and self.channels != 1:
            raise UserError(f"input.channels is {self.channels}; the map of a forecast has 1")
        if unknown := [name for name in self.targets if name not in self.names]:
            raise UserError(f"input.targets has {unknown[0]!r}, input.variables only {', '.join(self.names)}")
        count = self.past * (self.embed_dim if self.horizon else 1)
        if self.width and count % self.width:
            raise UserError(f"input.width is {self.width}, which does not divide the {count} numbers of a map")
        if self.units and len(self.units) != len(self.targets):
            raise UserError(f"input.units has {len(self.units)} entries, input.targets has {len(self.targets)}")

    @property
    def task(self) -> str:
        """What is learnt from the maps."""
        return "forecasting" if self.horizon else "classification"

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
        count = self.past * (self.embed_dim if self.horizon else 1)
        if self.width:
            return count // self.width, self.width
        height = next(h for h in range(math.isqrt(count), 0, -1) if count % h == 0)
        return height, count // height

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (channels, H, W) of the map, which to forecast the network itself makes of a window."""
        return self.channels, *self.map_size

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables after angles were taken apart."""
        return expand_angles(self.variables, self.angles)

    def read(self, item: Path | Window | np.ndarray) -> Window:
        """Read a file, or pass a window, or a series in memory of shape (L, 1, variables), on.

        Raises:
            UserError: The file is not a series, or one too short to forecast from.
        """
        if isinstance(item, Window):
            return item
        if isinstance(item, np.ndarray):
            return Window(item, NO_TIMES)
        if self.horizon:
            return self.read_grid(item).last(self.past, item)
        return read_ts_file(item) if item.suffix.lower() == ".ts" else self._read_plain(item)

    def read_grid(self, path: Path) -> Grid:
        """Read a CSV file of one or several stations; see :func:`~unireplknet.data.series.tables.read_csv`."""
        return read_csv(path, self.time, self.station, self.variables, self.angles, self.step)

    def to_map(self, raw: Window) -> Tensor:
        """The map of a window to forecast from or of a series to classify.

        Args:
            raw: Shape (L, stations, variables).

        Returns:
            To forecast: variables and calendar, shape (variables + 2 cycles, L, stations), in the units of the file,
            NaN where nothing was measured. To classify: shape (channels, H, W), normalised.

        Raises:
            UserError: The series has another number of variables than ``channels``.
        """
        if self.horizon:
            return torch.from_numpy(np.concatenate([raw.values.transpose(2, 0, 1), self._cycles(raw)]))
        values = raw.values[:, 0]
        if values.shape[1] != self.channels:
            raise UserError(f"a series has {values.shape[1]} variables, input.channels is {self.channels}")
        stretched = np.stack([_stretch(column, self.past) for column in values.T])
        return torch.from_numpy(self._normalised(stretched).reshape(-1, *self.map_size).astype(np.float32))

    def _cycles(self, raw: Window) -> np.ndarray:
        angles = [2 * math.pi * CALENDAR[name](raw.times) for name in self.calendar]
        waves = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
        shape = (len(waves), *raw.values.shape[:2])
        return np.broadcast_to(np.reshape(waves, (*shape[:2], 1)), shape).astype(np.float32)

    def _normalised(self, x: np.ndarray) -> np.ndarray:
        if self.normalise == "none":
            return x
        x = x - (x[:, -1:] if self.normalise.startswith("last") else x.mean(1, keepdims=True))
        return x if self.normalise.endswith("shift") else x / (x.std(1, keepdims=True) + 1e-5)

    def _read_plain(self, path: Path) -> Window:
        """A CSV file of one series to classify; its times, if any, only have to be in order."""
        frame = read_table(path)
        if self.time in frame:
            check_order(path, frame.index.to_numpy(), read_times(path, frame[self.time]), np.zeros(len(frame), int))
        columns = list(self.variables or frame.columns.drop(self.time, errors="ignore"))
        if unknown := [name for name in columns if name not in frame]:
            raise UserError(f"{path} has no column {unknown[0]!r}, only {', '.join(map(str, frame.columns))}")
        values = np.stack([read_numbers(path, frame, column) for column in columns], axis=1)
        return Window(values[:, None].astype(np.float32), NO_TIMES)


@dataclass
class SeriesAugment:
    """Random changes to training series; the defaults change nothing.

    Args:
        noise: Standard deviation of noise, as a part of each variable's own in the window.
        scale: Largest relative change of a variable's swings about its mean.
        hide: Part of the measurements that is hidden.
    """

    noise: float = 0.0
    scale: float = 0.0
    hide: float = 0.0

    def bind(self, inputs: SeriesInput) -> Callable[[Window], Tensor]:
        """The training counterpart of ``inputs.to_map``."""
        return partial(self._to_map, inputs)

    def _to_map(self, inputs: SeriesInput, raw: Window) -> Tensor:
        return inputs.to_map(raw._replace(values=self._change(raw.values)))

    def _change(self, values: np.ndarray) -> np.ndarray:
        draw = lambda *shape: torch.rand(shape).numpy()  # noqa: E731
        if self.noise or self.scale:
            mean = nan_mean(values, 0, keepdims=True)
            swing = values - mean
            spread = np.sqrt(nan_mean(swing**2, 0, keepdims=True))
            swing = swing * (1 + self.scale * (2 * draw(1, 1, values.shape[2]) - 1))
            values = mean + swing + self.noise * spread * torch.randn(values.shape).numpy()
        if self.hide:
            values = np.where(draw(*values.shape) < self.hide, np.nan, values)
        return values.astype(np.float32)


def _stretch(column: np.ndarray, length: int) -> np.ndarray:
    """A series of one variable at ``length`` evenly spaced places; gaps are bridged by straight lines."""
    known = np.flatnonzero(~np.isnan(column))
    if not len(known):
        return np.zeros(length)
    return np.interp(np.linspace(0, len(column) - 1, length), known, column[known])


def load_series(path: Path, inputs: SeriesInput) -> ForecastData:
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
    if not inputs.horizon:
        raise UserError("input.horizon is 0: say how many rows to foretell, or use data.source folder to classify")
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


def _load_table(path: Path, inputs: SeriesInput) -> Grid:
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
