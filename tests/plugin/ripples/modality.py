"""Heights on a grid, as text files -> a map; and a folder of them with their wavelengths."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.split import Split
from unireplknet.errors import UserError
from unireplknet.registry import Modality


@dataclass
class RippleInput:
    """How heights become a map.

    Args:
        size: Height and width of the grid.
        scale: What heights are divided by.
    """

    size: int = 16
    scale: float = 1.0

    extensions: ClassVar[tuple[str, ...]] = (".heights",)
    channels: ClassVar[int] = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def read(self, item: Path) -> np.ndarray:
        return np.loadtxt(item, dtype=np.float32)

    def to_map(self, raw: np.ndarray) -> Tensor:
        if raw.shape != (self.size, self.size):
            raise UserError(f"a grid is {raw.shape}, input.size is {self.size}")
        return torch.from_numpy(raw[None] / self.scale)


@dataclass
class RippleAugment:
    """Random changes of heights.

    Args:
        flip: Probability of mirroring the grid.
    """

    flip: float = 0.5

    def bind(self, inputs: RippleInput) -> Callable[[np.ndarray], Tensor]:
        def to_map(raw: np.ndarray) -> Tensor:
            sample = inputs.to_map(raw)
            return sample.flip(2) if torch.rand(()) < self.flip else sample

        return to_map


MODALITY = Modality(RippleInput, RippleAugment)


@dataclass(frozen=True)
class Ripples:
    """Grids with a number each, the first half to train with.

    Attributes:
        splits: By name.
        names: What the numbers are.
    """

    splits: dict[str, Split]
    names: tuple[str, ...] = ("wavelength",)

    def split(self, val_fraction: float, test_fraction: float, seed: int) -> "Ripples":
        items, labels = self.splits["all"].items, self.splits["all"].labels
        parts = {"train": slice(0, None, 2), "val": slice(1, None, 4), "test": slice(3, None, 4)}
        return Ripples({name: Split(items[part], labels[part]) for name, part in parts.items()})


def load_ripples(path: Path, inputs: RippleInput) -> Ripples:
    """Read ``wavelengths.csv`` (file, wavelength) beside the files."""
    with (path / "wavelengths.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = np.array([float(row["wavelength"]) for row in rows], np.float32)
    return Ripples({"all": Split([path / row["file"] for row in rows], labels)})
