"""Time series: a CSV, the Global Temperature / Wind Speed arrays or a .ts file -> a C x H x W map.

A window to forecast becomes (variables + calendar) x L x stations; the network's learnable embedding makes the paper's
1 x H x W map of it (section 3.3), with H W = L D'. A series to classify is folded into variables x H x W.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from unireplknet.errors import UserError, missing_extra
from unireplknet.modalities.folder import Labelled, Split
from unireplknet.modalities.windows import Grid, Window, Windowed

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

CALENDAR: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "hour": lambda times: (times - times.astype("M8[D]")) / np.timedelta64(1, "D"),
    "weekday": lambda times: ((times - np.datetime64("1969-12-29")) / np.timedelta64(7, "D")) % 1,
    "year": lambda times: (times - times.astype("M8[Y]")) / np.timedelta64(366, "D"),
}
"""Cycles that a forecast may know of: a time as a part of the cycle, 0 to 1."""

STATIONS = "stations.csv"
"""File beside the measurements with the columns station, latitude, longitude."""

DATA_TIME = "data_time"

NO_TIMES = np.empty(0, "M8[s]")


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
        return _expand(self.variables, self.angles)

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
        """Read a CSV file of one or several stations; see :func:`read_csv`."""
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
        frame = _read_table(path)
        if self.time in frame:
            _check_order(path, frame.index.to_numpy(), _times(path, frame[self.time]), np.zeros(len(frame), int))
        columns = list(self.variables or frame.columns.drop(self.time, errors="ignore"))
        if unknown := [name for name in columns if name not in frame]:
            raise UserError(f"{path} has no column {unknown[0]!r}, only {', '.join(map(str, frame.columns))}")
        values = np.stack([_numbers(path, frame, column) for column in columns], axis=1)
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
        return lambda raw: inputs.to_map(raw._replace(values=self._change(raw.values)))

    def _change(self, values: np.ndarray) -> np.ndarray:
        draw = lambda *shape: torch.rand(shape).numpy()  # noqa: E731
        if self.noise or self.scale:
            mean = _nan_mean(values)
            swing = values - mean
            spread = np.sqrt(_nan_mean(swing**2))
            swing = swing * (1 + self.scale * (2 * draw(1, 1, values.shape[2]) - 1))
            values = mean + swing + self.noise * spread * torch.randn(values.shape).numpy()
        if self.hide:
            values = np.where(draw(*values.shape) < self.hide, np.nan, values)
        return values.astype(np.float32)


def _nan_mean(values: np.ndarray) -> np.ndarray:
    """Mean over time; 0 where nothing was measured."""
    seen = ~np.isnan(values)
    return np.where(seen, values, 0).sum(0, keepdims=True) / np.maximum(seen.sum(0, keepdims=True), 1)


def _stretch(column: np.ndarray, length: int) -> np.ndarray:
    """A series of one variable at ``length`` evenly spaced places; gaps are bridged by straight lines."""
    known = np.flatnonzero(~np.isnan(column))
    if not len(known):
        return np.zeros(length)
    return np.interp(np.linspace(0, len(column) - 1, length), known, column[known])


def load_series(path: Path, inputs: SeriesInput) -> Windowed:
    """Measurements to forecast: a CSV file, a folder with one, or a folder of arrays.

    Args:
        path: ``FILE.csv``; a folder with one CSV file and perhaps a ``stations.csv`` (station, latitude, longitude); or
            a folder of arrays, see :func:`load_arrays`.
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
    grids = load_arrays(path, inputs) if any(path.glob("*_train.npy")) else {"all": _load_table(path, inputs)}
    grid = next(iter(grids.values()))
    for name, other in grids.items():
        if (other.stations, other.step) != (grid.stations, grid.step):
            raise UserError(f"{path}: the {name} part has other stations or another step than the first part")
    targets = tuple(inputs.forecaster()["targets"])
    return Windowed(grids, inputs.past, inputs.horizon, targets, inputs.max_missing)


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


def read_csv(
    path: Path,
    time: str = "time",
    station: str = "",
    variables: Sequence[str] = (),
    angles: Sequence[str] = (),
    step: str = "1h",
) -> Grid:
    """Read a table with one row a time and station onto a regular grid of times; what is missing there is NaN.

    Args:
        path: The file. Empty cells, NA, NaN and the like are missing measurements.
        time: Column of the times, ISO 8601; other time zones are brought to UTC.
        station: Column that names the station; empty for one station.
        variables: Columns of numbers; empty for all others.
        angles: Variables in degrees; each becomes a sine and a cosine.
        step: Time between two rows of a station, such as "1h".

    Returns:
        The measurements, stations in the order of their names.

    Raises:
        UserError: A column is missing; a cell is not a number or not a time; times of a station are not sorted, occur
            twice or lie between those of the grid. The message names file and line.
    """
    frame = _read_table(path)
    for column in (time, *([station] if station else []), *variables):
        if column not in frame:
            raise UserError(f"{path} has no column {column!r}, only {', '.join(map(str, frame.columns))}")
    variables = tuple(variables) or tuple(c for c in frame.columns if c not in (time, station))
    if unknown := [name for name in angles if name not in variables]:
        raise UserError(f"input.angles has {unknown[0]!r}, which is no variable of {path}")

    times = _times(path, frame[time])
    names = frame[station].fillna("").to_numpy(str) if station else np.full(len(frame), "station")
    found, place = np.unique(names, return_inverse=True)
    stations = tuple(map(str, found))
    _check_order(path, frame.index.to_numpy(), times, place)
    interval = _step(step)
    row, rest = np.divmod(times - times.min(), interval)
    if rest.any():
        bad = int(np.flatnonzero(rest)[0])
        raise UserError(
            f"{path} line {frame.index[bad]}: {times[bad]} is not on the grid of times, which begins at {times.min()}"
            f" in steps of {step}; set input.step"
        )
    length = int(row.max()) + 1
    if length > 100 * len(frame):
        raise UserError(
            f"{path}: {times.min()} to {times.max()} are {length} steps of {step}, but there are"
            f" {len(frame)} rows: is a time wrong?"
        )
    columns = []
    for name in variables:
        numbers = _numbers(path, frame, name)
        columns += [np.sin(np.deg2rad(numbers)), np.cos(np.deg2rad(numbers))] if name in angles else [numbers]
    values = np.full((length, len(stations), len(columns)), np.nan, np.float32)
    values[row, place] = np.stack(columns, axis=1)
    coordinates = _coordinates(path.with_name(STATIONS), stations)
    return Grid(times.min(), interval, values, stations, _expand(variables, angles), coordinates)


def _expand(variables: Sequence[str], angles: Sequence[str]) -> tuple[str, ...]:
    pairs = ((f"{v}_sin", f"{v}_cos") if v in angles else (v,) for v in variables)
    return tuple(name for pair in pairs for name in pair)


def _read_table(path: Path) -> pd.DataFrame:
    """A CSV file as text, its rows numbered as the lines of the file."""
    try:
        import pandas as pd
    except ImportError as error:
        raise missing_extra("pandas", "series") from error
    try:
        frame = pd.read_csv(path, dtype=str, skip_blank_lines=False)
    except (OSError, ValueError, UnicodeError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path} cannot be read as CSV: {' '.join(str(error).split())}") from error
    frame.index = pd.RangeIndex(2, len(frame) + 2)
    frame = frame.dropna(how="all")
    if frame.empty:
        raise UserError(f"{path} has no rows")
    return frame


def _times(path: Path, column: pd.Series) -> np.ndarray:
    import pandas as pd

    times = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    if times.isna().any():
        line = times.index[times.isna()][0]
        raise UserError(f"{path} line {line}: {column[line]!r} is not a time; expected one such as 2013-01-31T14:00")
    return times.dt.tz_localize(None).to_numpy().astype("M8[s]")


def _numbers(path: Path, frame: pd.DataFrame, column: str) -> np.ndarray:
    import pandas as pd

    text = frame[column]
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    bad = text.notna() & ~np.isfinite(numbers)
    if bad.any():
        line = bad.index[bad][0]
        raise UserError(f"{path} line {line}: {text[line]!r} in column {column!r} is not a number")
    return numbers.to_numpy()


def _check_order(path: Path, lines: np.ndarray, times: np.ndarray, place: np.ndarray) -> None:
    """See that the times of each station rise."""
    for station in range(place.max() + 1):
        own = np.flatnonzero(place == station)
        wrong = np.flatnonzero(np.diff(times[own]) <= np.timedelta64(0))
        if len(wrong):
            before, here = own[wrong[0]], own[wrong[0] + 1]
            said = "is there already, in" if times[here] == times[before] else "is earlier than that of"
            raise UserError(
                f"{path} line {lines[here]}: {times[here]} {said} line {lines[before]}; expected rising times"
            )


def _coordinates(path: Path, stations: tuple[str, ...]) -> np.ndarray | None:
    """Latitude and longitude of each station, where a file gives them."""
    if not path.exists():
        return None
    frame = _read_table(path)
    for column in ("station", "latitude", "longitude"):
        if column not in frame:
            raise UserError(f"{path} has no column {column!r}, only {', '.join(map(str, frame.columns))}")
    names = list(frame["station"])
    if lost := [name for name in stations if name not in names]:
        raise UserError(f"{path} has no station {lost[0]!r}")
    places = np.stack([_numbers(path, frame, column) for column in ("latitude", "longitude")], axis=1)
    return places[[names.index(name) for name in stations]].astype(np.float32)


def load_arrays(folder: Path, inputs: SeriesInput) -> dict[str, Grid]:
    """The layout of Global Temperature and Global Wind Speed: one array a split, mapped rather than read.

    Args:
        folder: Of ``NAME_train.npy``, ``NAME_val.npy`` and ``NAME_test.npy``, shape (T, stations) or (T, stations, 1 or
            more features, of which the first is taken), and ``data_time_train.npy`` and so on with the times.
        inputs: ``variables`` says which NAME; ``factor`` is 0.1 for the published tenths.

    Returns:
        A grid a split.

    Raises:
        UserError: A file is missing, holds Python objects, or has a wrong shape.
    """
    names = sorted(p.name.removesuffix("_train.npy") for p in folder.glob("*_train.npy"))
    names = [name for name in names if name != DATA_TIME]
    if len(inputs.variables) != 1 or inputs.variables[0] not in names:
        raise UserError(f"{folder} has arrays of {', '.join(names)}; input.variables has to name one of them")
    (name,) = inputs.variables
    parts = [split for split in ("train", "val", "test") if (folder / f"{name}_{split}.npy").exists()]
    return {split: _load_array(folder, name, split, inputs) for split in parts}


def _load_array(folder: Path, name: str, split: str, inputs: SeriesInput) -> Grid:
    file = folder / f"{name}_{split}.npy"
    values = _map_array(file)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.dtype.kind not in "fiu":
        raise UserError(f"{file} has the shape {values.shape} of {values.dtype}; expected (T, stations, 1) of numbers")
    start, step = np.datetime64("1970-01-01", "s"), _step(inputs.step)
    clock = folder / f"{DATA_TIME}_{split}.npy"
    if clock.exists():
        times = _map_array(clock).astype("M8[s]")
        start = times[0]
        if len(times) != len(values) or (np.diff(times) != step).any():
            raise UserError(f"{clock} is not a row of {len(values)} times in steps of {inputs.step}")
    elif inputs.calendar:
        raise UserError(f"{clock} is missing; without times, input.calendar has to be []")
    stations = tuple(str(i) for i in range(values.shape[1]))
    return Grid(
        start, step, values[:, :, :1], stations, (name,), _coordinates(folder / STATIONS, stations), inputs.factor
    )


def _step(text: str) -> np.timedelta64:
    import pandas as pd

    try:
        return pd.Timedelta(text).to_timedelta64().astype("m8[s]")
    except ValueError as error:
        raise UserError(f"input.step is {text!r}; expected a time such as 1h or 10min") from error


def _map_array(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read: {' '.join(str(error).split())}; arrays of Python objects have to be saved anew"
            " with a type such as float32 or datetime64"
        ) from error


def read_ts_file(path: Path) -> Window:
    """Read a .ts file that holds one series, of one or several dimensions.

    Raises:
        UserError: It is not a .ts file, or holds several series.
    """
    cases = read_ts(path)
    if len(cases) != 1:
        raise UserError(f"{path} holds {len(cases)} series, expected one a file; data.source ts reads whole archives")
    return cases[0][0]


def load_ts(path: Path) -> Labelled:
    """A data set of the UCR / UEA archive: ``NAME_TRAIN.ts`` and ``NAME_TEST.ts`` in one folder.

    Raises:
        UserError: A file is missing or malformed.
    """
    splits, labels = {}, {}
    for split in ("train", "test"):
        files = sorted(path.glob(f"*_{split.upper()}.ts"))
        if len(files) != 1:
            raise UserError(f"{path} has {len(files)} files named *_{split.upper()}.ts, expected 1")
        cases = read_ts(files[0])
        if unlabelled := [i for i, (_, label) in enumerate(cases, 1) if not label]:
            raise UserError(f"{files[0]}: series {unlabelled[0]} has no class label")
        splits[split], labels[split] = [case.values for case, _ in cases], [label for _, label in cases]
    classes = tuple(sorted(set(labels["train"])))
    if unknown := set(labels["test"]) - set(classes):
        raise UserError(f"{path}: class {min(unknown)!r} is only in the test part")
    index = {name: i for i, name in enumerate(classes)}
    return Labelled(
        classes,
        {s: Split(splits[s], np.array([index[label] for label in labels[s]], np.int64)) for s in splits},
    )


def read_ts(path: Path) -> list[tuple[Window, str]]:
    """Read the series of a .ts file and their class labels ("" without).

    The text format of the UCR / UEA archive: lines with ``@``, then ``@data``, then one series a line, dimensions
    divided by ``:``, numbers by ``,``, ``?`` for a missing one, the label last. Dimensions may differ in length.

    Raises:
        UserError: The format is another one; the message names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    cases: list[tuple[Window, str]] = []
    labelled, in_data = False, False
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if not in_data:
            key, value = words[0].lower(), words[1].lower() if len(words) > 1 else ""
            if key == "@timestamps" and value == "true":
                raise UserError(f"{path} line {number}: series with time stamps are not read; write plain numbers")
            labelled = value == "true" if key == "@classlabel" else labelled
            in_data = key == "@data"
            continue
        parts = line.strip().split(":")
        label = parts.pop() if labelled else ""
        try:
            columns = [[math.nan if n.strip() == "?" else float(n) for n in part.split(",")] for part in parts]
        except ValueError as error:
            raise UserError(f"{path} line {number}: {error}") from error
        if not columns:
            raise UserError(f"{path} line {number} has a class label and no numbers")
        values = np.full((max(map(len, columns)), 1, len(columns)), np.nan, np.float32)
        for dimension, column in enumerate(columns):
            values[: len(column), 0, dimension] = column
        cases.append((Window(values, NO_TIMES), label.strip()))
    if not in_data:
        raise UserError(f"{path} has no @data line: it is not a .ts file")
    return cases
