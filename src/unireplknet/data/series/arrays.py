"""Arrays of measurements, a file a split: the layout of Global Temperature and Global Wind Speed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unireplknet.data.series.grid import Grid
from unireplknet.data.series.tables import STATIONS, parse_step, read_coordinates
from unireplknet.errors import UserError

DATA_TIME = "data_time"


def load_arrays(
    folder: Path, variables: Sequence[str], step: str = "1h", factor: float = 1.0, timed: bool = True
) -> dict[str, Grid]:
    """The layout of Global Temperature and Global Wind Speed: one array a split, mapped rather than read.

    Args:
        folder: Of ``NAME_train.npy``, ``NAME_val.npy`` and ``NAME_test.npy``, shape (T, stations) or (T, stations, 1 or
            more features, of which the first is taken), and ``data_time_train.npy`` and so on with the times.
        variables: The one NAME to read.
        step: Time between two rows, such as "1h".
        factor: What to multiply the numbers with: 0.1 for the published tenths.
        timed: Whether the times have to be known.

    Returns:
        A grid a split.

    Raises:
        UserError: A file is missing, holds Python objects, or has a wrong shape.
    """
    names = sorted(p.name.removesuffix("_train.npy") for p in folder.glob("*_train.npy"))
    names = [name for name in names if name != DATA_TIME]
    if len(variables) != 1 or variables[0] not in names:
        raise UserError(f"{folder} has arrays of {', '.join(names)}; input.variables has to name one of them")
    (name,) = variables
    parts = [split for split in ("train", "val", "test") if (folder / f"{name}_{split}.npy").exists()]
    return {split: _load_array(folder, name, split, step, factor, timed) for split in parts}


def _load_array(folder: Path, name: str, split: str, step: str, factor: float, timed: bool) -> Grid:
    file = folder / f"{name}_{split}.npy"
    values = _map_array(file)
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.dtype.kind not in "fiu":
        raise UserError(f"{file} has the shape {values.shape} of {values.dtype}; expected (T, stations, 1) of numbers")
    start, interval = np.datetime64("1970-01-01", "s"), parse_step(step)
    clock = folder / f"{DATA_TIME}_{split}.npy"
    if clock.exists():
        times = _map_array(clock).astype("M8[s]")
        start = times[0]
        if len(times) != len(values) or (np.diff(times) != interval).any():
            raise UserError(f"{clock} is not a row of {len(values)} times in steps of {step}")
    elif timed:
        raise UserError(f"{clock} is missing; without times, input.calendar has to be []")
    stations = tuple(str(i) for i in range(values.shape[1]))
    return Grid(
        start, interval, values[:, :, :1], stations, (name,), read_coordinates(folder / STATIONS, stations), factor
    )


def _map_array(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read: {' '.join(str(error).split())}; arrays of Python objects have to be saved anew"
            " with a type such as float32 or datetime64"
        ) from error
