"""Time series: a CSV or a .ts file, folded into a map of variables x H x W."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.series.gaps import nan_mean
from unireplknet.data.series.grid import NO_TIMES, Window
from unireplknet.data.series.tables import (
    check_order,
    read_numbers,
    read_table,
    read_times,
)
from unireplknet.data.series.ts import read_ts_file
from unireplknet.errors import UserError
from unireplknet.registry import Modality

Normalise = Literal["mean", "last", "mean-shift", "last-shift", "none"]


@dataclass
class SeriesInput:
    """How a series becomes a map.

    Args:
        past: Length L to which a series is stretched.
        time: Column of the times, ISO 8601.
        variables: Columns of numbers to read; empty for all columns but the time.
        normalise: What is subtracted from each variable of a series: its "mean" or "last" value; the rest is divided
            by its standard deviation. "mean-shift" and "last-shift" only subtract, "none" leaves the series alone.
        channels: Number of variables.
        width: Columns of the map, such as a period of the series; 0 makes it almost square.
    """

    past: int = 48
    time: str = "time"
    variables: tuple[str, ...] = ()
    normalise: Normalise = "mean"
    channels: int = 1
    width: int = 0

    extensions: ClassVar[tuple[str, ...]] = (".csv", ".ts")

    def __post_init__(self) -> None:
        if self.past < 2:
            raise UserError(f"input.past is {self.past}; expected at least 2")
        check_width(self.width, self.past)

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map: H W = L, and as square as that can be unless ``width`` says otherwise."""
        return fold(self.past, self.width)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (channels, H, W) of the map."""
        return self.channels, *self.map_size

    def read(self, item: Path | Window | np.ndarray) -> Window:
        """Read a file, or pass a window, or a series in memory of shape (L, 1, variables), on.

        Raises:
            UserError: The file is not a series.
        """
        if isinstance(item, Window):
            return item
        if isinstance(item, np.ndarray):
            return Window(item, NO_TIMES)
        return read_ts_file(item) if item.suffix.lower() == ".ts" else self._read_plain(item)

    def to_map(self, raw: Window) -> Tensor:
        """The map of a series, shape (channels, H, W), normalised.

        Args:
            raw: Shape (L, 1, variables).

        Raises:
            UserError: The series has another number of variables than ``channels``.
        """
        values = raw.values[:, 0]
        if values.shape[1] != self.channels:
            raise UserError(f"a series has {values.shape[1]} variables, input.channels is {self.channels}")
        stretched = np.stack([_stretch(column, self.past) for column in values.T])
        return torch.from_numpy(self._normalised(stretched).reshape(-1, *self.map_size).astype(np.float32))

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

    def bind(self, inputs: Any) -> Callable[[Window], Tensor]:
        """The training counterpart of ``inputs.to_map``."""
        return partial(self._to_map, inputs)

    def _to_map(self, inputs: Any, raw: Window) -> Tensor:
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


def check_width(width: int, count: int) -> None:
    """See that numbers fill rows of a width.

    Args:
        width: The width; 0 for any.
        count: How many numbers a map has.

    Raises:
        UserError: They do not.
    """
    if width and count % width:
        raise UserError(f"input.width is {width}, which does not divide the {count} numbers of a map")


def fold(count: int, width: int = 0) -> tuple[int, int]:
    """Height and width of a map of some numbers.

    Args:
        count: How many.
        width: The width; 0 makes the map almost square.
    """
    if width:
        return count // width, width
    height = next(h for h in range(math.isqrt(count), 0, -1) if count % h == 0)
    return height, count // height


def _stretch(column: np.ndarray, length: int) -> np.ndarray:
    """A series of one variable at ``length`` evenly spaced places; gaps are bridged by straight lines."""
    known = np.flatnonzero(~np.isnan(column))
    if not len(known):
        return np.zeros(length)
    return np.interp(np.linspace(0, len(column) - 1, length), known, column[known])


MODALITY = Modality(SeriesInput, SeriesAugment)
