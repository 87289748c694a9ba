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

from unireplknet.ops.triton.geometry import ALIGN, Geometry, cut

Kind = Literal["conv", "correlate"]
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


# By element size. Chosen from compiled code (no register spills on sm_80, sm_90 and sm_120, least instructions a
# pixel), see ``benchmarks/triton_static_report.py``; not yet timed on a card.
_SHIPPED = {
    "conv": {2: Tiles(64, 64, 128, 8, 3), 4: Tiles(32, 32, 64, 4, 2), 8: Tiles(32, 32, 32, 4, 2)},
    "correlate": {2: Tiles(64, 128, 64, 4, 2), 4: Tiles(32, 64, 32, 4, 2), 8: Tiles(32, 32, 32, 4, 2)},
}
# Planes up to 8 x 8 in float32 are still one group, with fewer rows to a tile.
_SMALL_PLANE = 64
_SMALL_PLANE_TILES = Tiles(64, 64, 32, 4, 2)
# Other planes of odd length load element by element, and every address takes registers.
_ODD_PLANE_TILES = {2: Tiles(64, 64, 64, 8, 2), 4: Tiles(32, 32, 64, 8, 1), 8: Tiles(32, 32, 32, 4, 2)}

_path: str | None = os.environ.get("UNIREPLKNET_TRITON_TUNED") or None
_forced: Mapping[str, Tiles] | None = None


def geometry(x: Tensor, kernel_size: tuple[int, int], dilation: int, tiles: Tiles) -> Geometry:
    """How the tiles cut a map of shape (B, C, H, W) for these kernels."""
    return cut(*x.shape[2:], *kernel_size, dilation, tiles.group, tiles.window)


def shipped(kind: Kind, x: Tensor) -> Tiles:
    """The tiles that the package comes with."""
    size, plane = x.element_size(), x.shape[2] * x.shape[3]
    if size == 4 and plane <= _SMALL_PLANE:
        return _SMALL_PLANE_TILES
    regular = _SHIPPED[kind][size]
    one_window = plane + ALIGN <= regular.group
    return regular if plane % 4 == 0 or one_window else _ODD_PLANE_TILES[size]


def candidates(kind: Kind, x: Tensor, kernel_size: tuple[int, int], dilation: int) -> list[Tiles]:
    """The shipped tiles, then those that differ from them by a factor of two (one stage) in one number.

    Those that come to the same cut of the map are listed once. Whether one fits a card's shared memory, the
    compiler says there.
    """
    default = shipped(kind, x)
    ranges = {"group": (32, 64), "window": (32, 128), "block_m": (16, 256), "num_warps": (2, 8)}
    if kind == "correlate":
        ranges["programs"] = (1, 2048)
    tried = [default]
    for name, (least, most) in ranges.items():
        value = getattr(default, name)
        tried += [default._replace(**{name: v}) for v in (value // 2, value * 2) if least <= v <= most]
    tried += [default._replace(stages=v) for v in (default.stages - 1, default.stages + 1) if v >= 1]
    distinct: dict[tuple[object, ...], Tiles] = {}
    for tiles in tried:
        # A window holds at least a group.
        tiles = tiles._replace(window=max(tiles.window, tiles.group))
        distinct.setdefault((geometry(x, kernel_size, dilation, tiles), *tiles[2:]), tiles)
    return list(distinct.values())


def choose(kind: Kind, x: Tensor, kernel_size: tuple[int, int], dilation: int) -> Tiles:
    """The tiles of one launch: those shipped, unless the user named a file with others for this very case."""
    if _forced is not None:
        return _pick(_forced, kind, x, kernel_size, dilation)
    if _path is not None:
        return _from_file(_path, kind, x.shape[1:], x.dtype, x.device, kernel_size, dilation)
    return shipped(kind, x)


@cache
def _from_file(
    path: str,
    kind: Kind,
    shape: torch.Size,
    dtype: torch.dtype,
    device: torch.device,
    kernel_size: tuple[int, int],
    dilation: int,
) -> Tiles:
    # Once a case: a launch should not wait for names and candidates.
    return _pick(_read(path), kind, torch.empty((0, *shape), dtype=dtype, device=device), kernel_size, dilation)


def _pick(table: Mapping[str, Tiles], kind: Kind, x: Tensor, kernel_size: tuple[int, int], dilation: int) -> Tiles:
    """The tiles of a table, if they are candidates; the shipped ones otherwise."""
    if not table:
        return shipped(kind, x)
    case = key(kind, x, kernel_size, dilation)
    tiles = table.get(case)
    if tiles is None:
        _warn(f"no tuned tiles for {case}: the shipped ones are used")
    elif tiles not in candidates(kind, x, kernel_size, dilation):
        _warn(f"the tuned tiles for {case} are none of the candidates: the shipped ones are used")
    else:
        return tiles
    return shipped(kind, x)


def key(kind: Kind, x: Tensor, kernel_size: tuple[int, int], dilation: int) -> str:
    """Name of a case: kernel, shape, type, card, Triton. Without the batch, so that every batch rounds alike."""
    shape = "x".join(map(str, x.shape[1:]))
    taps = "x".join(map(str, kernel_size))
    dtype = str(x.dtype).removeprefix("torch.")
    return f"{kind} {shape} kernel {taps} dilation {dilation} {dtype}, {_card(x.device)}, triton {triton.__version__}"


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
