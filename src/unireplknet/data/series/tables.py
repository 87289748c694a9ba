"""Tables of measurements with times and stations, as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unireplknet.data.series.grid import Grid
from unireplknet.errors import UserError, missing_extra

if TYPE_CHECKING:
    import pandas as pd

STATIONS = "stations.csv"
"""File beside the measurements with the columns station, latitude, longitude."""


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
    frame = read_table(path)
    for column in (time, *([station] if station else []), *variables):
        if column not in frame:
            raise UserError(f"{path} has no column {column!r}, only {', '.join(map(str, frame.columns))}")
    variables = tuple(variables) or tuple(c for c in frame.columns if c not in (time, station))
    if unknown := [name for name in angles if name not in variables]:
        raise UserError(f"input.angles has {unknown[0]!r}, which is no variable of {path}")

    times = read_times(path, frame[time])
    names = frame[station].fillna("").to_numpy(str) if station else np.full(len(frame), "station")
    found, place = np.unique(names, return_inverse=True)
    stations = tuple(map(str, found))
    check_order(path, frame.index.to_numpy(), times, place)
    interval = parse_step(step)
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
        numbers = read_numbers(path, frame, name)
        columns += [np.sin(np.deg2rad(numbers)), np.cos(np.deg2rad(numbers))] if name in angles else [numbers]
    values = np.full((length, len(stations), len(columns)), np.nan, np.float32)
    values[row, place] = np.stack(columns, axis=1)
    coordinates = read_coordinates(path.with_name(STATIONS), stations)
    return Grid(times.min(), interval, values, stations, expand_angles(variables, angles), coordinates)


def expand_angles(variables: Sequence[str], angles: Sequence[str]) -> tuple[str, ...]:
    """Names of the variables once each angle is a sine and a cosine."""
    pairs = ((f"{v}_sin", f"{v}_cos") if v in angles else (v,) for v in variables)
    return tuple(name for pair in pairs for name in pair)


def read_table(path: Path) -> pd.DataFrame:
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


def read_times(path: Path, column: pd.Series) -> np.ndarray:
    """A column of a table as times in UTC; the message of a bad one names its line."""
    import pandas as pd

    times = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601")
    if times.isna().any():
        line = times.index[times.isna()][0]
        raise UserError(f"{path} line {line}: {column[line]!r} is not a time; expected one such as 2013-01-31T14:00")
    return times.dt.tz_localize(None).to_numpy().astype("M8[s]")


def read_numbers(path: Path, frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column of a table as numbers, NaN where it is empty; the message of a bad one names its line."""
    import pandas as pd

    text = frame[column]
    numbers = pd.to_numeric(text, errors="coerce").astype(float)
    bad = text.notna() & ~np.isfinite(numbers)
    if bad.any():
        line = bad.index[bad][0]
        raise UserError(f"{path} line {line}: {text[line]!r} in column {column!r} is not a number")
    return numbers.to_numpy()


def check_order(path: Path, lines: np.ndarray, times: np.ndarray, place: np.ndarray) -> None:
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


def read_coordinates(path: Path, stations: tuple[str, ...]) -> np.ndarray | None:
    """Latitude and longitude of each station, where a file gives them."""
    if not path.exists():
        return None
    frame = read_table(path)
    for column in ("station", "latitude", "longitude"):
        if column not in frame:
            raise UserError(f"{path} has no column {column!r}, only {', '.join(map(str, frame.columns))}")
    names = list(frame["station"])
    if lost := [name for name in stations if name not in names]:
        raise UserError(f"{path} has no station {lost[0]!r}")
    places = np.stack([read_numbers(path, frame, column) for column in ("latitude", "longitude")], axis=1)
    return places[[names.index(name) for name in stations]].astype(np.float32)


def parse_step(text: str) -> np.timedelta64:
    """A time between two rows, such as "1h", as a number of seconds."""
    import pandas as pd

    try:
        return pd.Timedelta(text).to_timedelta64().astype("m8[s]")
    except ValueError as error:
        raise UserError(f"input.step is {text!r}; expected a time such as 1h or 10min") from error
