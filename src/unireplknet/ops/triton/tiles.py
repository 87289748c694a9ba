"""Tile sizes of the Triton kernels: those shipped, those worth trying on a card, and those its owner measured.

Nothing is measured unasked. The file that ``tuning.py`` fills is read when the environment variable
UNIREPLKNET_TRITON_TUNED names it, and then only for the card and Triton version that it was measured with.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import triton
from torch import Tensor

from unireplknet.ops.triton.geometry import ALIGN, Kernel, cut

Kind = Literal["conv", "transpose", "correlate"]
"""A convolution with one kernel or several; the input gradient of a whole block; the weight gradient."""
_log = logging.getLogger(__name__)


class Tiles(NamedTuple):
    """Tile sizes of one kernel: pixels of a group and a window, rows, warps, pipeline depth.

    ``programs`` is for the weight gradient alone: it is split over the batch until about this many programs
    share the work. A number rather than the card's size, so that the order of summation is the same on any card.
    """

    group: int
    window: int
    block_m: int
    num_warps: int
    stages: int
    programs: int = 512


# By element size. Half precision is timed on an H200 (benchmarks/gpu.py); the rest is chosen from compiled code: no
# register spills on sm_80, sm_90 and sm_120, least instructions a pixel.
_SHIPPED = {
    "conv": {2: Tiles(64, 64, 64, 4, 2), 4: Tiles(32, 32, 64, 4, 2), 8: Tiles(32, 32, 32, 4, 2)},
    "transpose": {2: Tiles(64, 64, 64, 4, 2), 4: Tiles(32, 32, 64, 4, 2), 8: Tiles(32, 32, 32, 4, 2)},
    "correlate": {2: Tiles(64, 128, 64, 4, 2), 4: Tiles(32, 64, 32, 4, 2), 8: Tiles(32, 32, 32, 4, 2)},
}
# Pixels of a plane above which the weight gradient is faster with windows as large as its groups (28 px, H200: 0.53 ms
# to 0.60; 14 px is not).
_WIDE_WINDOW = 256
# Planes up to 8 x 8 in float32 are still one group, with fewer rows to a tile.
_SMALL_PLANE = 64
_SMALL_PLANE_TILES = Tiles(64, 64, 32, 4, 2)
# Other planes of odd length load element by element, and every address takes registers.
_ODD_PLANE_TILES = {2: Tiles(64, 64, 64, 8, 2), 4: Tiles(32, 32, 64, 8, 1), 8: Tiles(32, 32, 32, 4, 2)}

_path: str | None = os.environ.get("UNIREPLKNET_TRITON_TUNED") or None
_forced: Mapping[str, Tiles] | None = None


def are_shipped() -> bool:
    """Whether every launch takes the tiles that the package comes with."""
    return _forced is None and _path is None


def shipped(kind: Kind, x: Tensor) -> Tiles:
    """The tiles that the package comes with."""
    return _shipped(kind, x.element_size(), x.shape[2] * x.shape[3])


@cache
def _shipped(kind: Kind, size: int, plane: int) -> Tiles:
    if size == 4 and plane <= _SMALL_PLANE:
        return _SMALL_PLANE_TILES
    regular = _SHIPPED[kind][size]
    if size == 2 and plane > _WIDE_WINDOW:
        regular = regular._replace(window=regular.group)
    one_window = plane + ALIGN <= regular.group
    return regular if plane % 4 == 0 or one_window else _ODD_PLANE_TILES[size]


# Groups, windows, rows, warps and stages that are worth a try beside the shipped ones: small groups do the fewest
# products, large ones read a window least often.
_WORTH_A_TRY = (
    (32, 32, 64, 4, 3),
    (32, 32, 128, 8, 3),
    (32, 64, 64, 4, 2),
    (64, 64, 32, 4, 2),
    (64, 64, 64, 4, 2),
    (64, 64, 64, 4, 3),
    (64, 64, 64, 8, 3),
    (64, 64, 128, 8, 2),
    (64, 64, 128, 8, 3),
    (64, 128, 64, 8, 3),
    (64, 128, 128, 8, 2),
    (128, 128, 64, 8, 3),
    (128, 128, 128, 8, 2),
)


def candidates(kind: Kind, x: Tensor, kernels: tuple[Kernel, ...]) -> list[Tiles]:
    """The shipped tiles, then others that are worth timing.

    Those that come to the same cut of the map are listed once. Whether one fits a card's shared memory, the
    compiler says there.
    """
    default = shipped(kind, x)
    tried = [default, *(default._replace(**dict(zip(Tiles._fields, sizes, strict=False))) for sizes in _WORTH_A_TRY)]
    if kind == "correlate":
        tried += [default._replace(programs=programs) for programs in (default.programs // 2, default.programs * 2)]
    distinct: dict[tuple[object, ...], Tiles] = {}
    for tiles in tried:
        distinct.setdefault((cut(x.shape[2], x.shape[3], kernels, tiles.group, tiles.window), *tiles[2:]), tiles)
    return list(distinct.values())


def choose(kind: Kind, x: Tensor, kernels: tuple[Kernel, ...]) -> Tiles:
    """The tiles of one launch: those shipped, unless the user named a file with others for this very case."""
    if _forced is not None:
        return _forced.get(key(kind, x, kernels)) or shipped(kind, x)
    if _path is not None:
        return _from_file(_path, kind, x.shape[1:], x.dtype, x.device, kernels)
    return shipped(kind, x)


@cache
def _from_file(
    path: str,
    kind: Kind,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    kernels: tuple[Kernel, ...],
) -> Tiles:
    # Once a case: a launch should not wait for names and candidates.
    return _pick(_read(path), kind, torch.empty((0, *shape), dtype=dtype, device=device), kernels)


def _pick(table: Mapping[str, Tiles], kind: Kind, x: Tensor, kernels: tuple[Kernel, ...]) -> Tiles:
    """The tiles of a table, if they are candidates; the shipped ones otherwise."""
    if not table:
        return shipped(kind, x)
    case = key(kind, x, kernels)
    tiles = table.get(case)
    if tiles is None:
        _warn(f"no tuned tiles for {case}: the shipped ones are used")
    elif tiles not in candidates(kind, x, kernels):
        _warn(f"the tuned tiles for {case} are none of the candidates: the shipped ones are used")
    else:
        return tiles
    return shipped(kind, x)


def key(kind: Kind, x: Tensor, kernels: tuple[Kernel, ...]) -> str:
    """Name of a case: kernels, shape, type, card, Triton. Without the batch, so that every batch rounds alike."""
    shape = "x".join(map(str, x.shape[1:]))
    taps = ", ".join(f"{kernel.height}x{kernel.width} dilation {kernel.dilation}" for kernel in kernels)
    dtype = str(x.dtype).removeprefix("torch.")
    return f"{kind} {shape} kernel {taps} {dtype}, {_card(x.device)}, triton {triton.__version__}"


@contextmanager
def use_tiles(table: Mapping[str, Tiles]) -> Iterator[None]:
    """Launch with these tiles, by `key`, inside the block, in all threads; whatever is not in it is as shipped."""
    global _forced
    before, _forced = _forced, table
    try:
        yield
    finally:
        _forced = before


def load(path: Path) -> dict[str, Tiles]:
    """Read a file of tuned tiles.

    Raises:
        ValueError: It is no such file.
        OSError: It cannot be read.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(entries, dict):
        raise ValueError(f"{path} holds a {type(entries).__name__}, expected tiles by case")
    table = {}
    for case, values in entries.items():
        if not isinstance(values, dict) or set(values) != set(Tiles._fields):
            raise ValueError(f"{path}: {case!r} is {values!r}, expected {', '.join(Tiles._fields)}")
        if any(type(value) is not int for value in values.values()):
            raise ValueError(f"{path}: {case!r} is {values!r}, expected whole numbers")
        table[case] = Tiles(**values)
    return table


@cache
def _read(path: str) -> dict[str, Tiles]:
    try:
        return load(Path(path))
    except (OSError, ValueError) as error:
        _warn(f"UNIREPLKNET_TRITON_TUNED cannot be used, shipped tiles are: {error}")
        return {}


@cache
def _warn(message: str) -> None:
    _log.warning(message)


@cache
def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
