"""Shapes and tiles of the kernels that pass over a block's maps, and the statistics that they take together."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from unireplknet.ops.triton.geometry import Cut
from unireplknet.ops.triton.kernels import block as kernels
from unireplknet.ops.triton.launch import Running, launch

# Pixels that a program which sums over pixels goes through.
_CHUNK = 512
# Partial results that a program of the last sum reads at a time.
BLOCK_ROWS = 1024


class Tiling(NamedTuple):
    """How a launch cuts a map: programs, how many of them share an image, and the tiles that each goes through."""

    grid: tuple[int, int]
    chunks: int
    tiles: int
    pixels: int
    channels: int

    @property
    def rows(self) -> int:
        """Programs for one block of channels."""
        return self.grid[0]


class Map(NamedTuple):
    """Shape of a map as the kernels see it: images, channels, and pixels as units times unit.

    ``unit`` is the compile-time part of the number of pixels: its common divisor with 16.
    """

    batch: int
    channels: int
    pixels: int

    @property
    def unit(self) -> int:
        """The compile-time part."""
        return math.gcd(self.pixels, 16)

    @property
    def units(self) -> int:
        """The rest."""
        return self.pixels // self.unit


def nchw(x: Tensor) -> Map:
    """The shape of a map (B, C, H, W)."""
    batch, channels, height, width = x.shape
    return Map(batch, channels, height * width)


def nhwc(x: Tensor) -> Map:
    """The shape of a map (B, H, W, C)."""
    batch, height, width, channels = x.shape
    return Map(batch, channels, height * width)


def channel_block(channels: int, most: int) -> int:
    """The widest block of channels of which few are beyond the last.

    Args:
        channels: Channels.
        most: Most channels of a block, a power of two.
    """
    block = most
    while block > 16 and -(-channels // block) * block > 1.2 * channels:
        block //= 2
    return block


def pixel_block(pixels: int, most: int) -> int:
    """The smallest power of two that holds all pixels, between 16 and ``most``.

    Args:
        pixels: Pixels.
        most: Most pixels of a block, a power of two.
    """
    return max(16, min(most, 1 << (pixels - 1).bit_length()))


@functools.cache
def tiling(shape: Map, most_pixels: int, most_channels: int, sums: bool = False) -> Tiling:
    """Cut a map in tiles.

    Args:
        shape: The map.
        most_pixels: Most pixels of a tile.
        most_channels: Most channels of a tile.
        sums: Whether programs sum over pixels; they then go through several tiles each.
    """
    pixels, channels = pixel_block(shape.pixels, most_pixels), channel_block(shape.channels, most_channels)
    tiles = max(1, pixel_block(shape.pixels, _CHUNK) // pixels) if sums else 1
    chunks = -(-shape.pixels // (pixels * tiles))
    return Tiling((shape.batch * chunks, -(-shape.channels // channels)), chunks, tiles, pixels, channels)


# The sizes below were the fastest of some dozen on an H200.


def across(shape: Map, sums: bool = False) -> Tiling:
    """Tiles of a pass that reads one layout and writes, or reads as well, the other."""
    return tiling(shape, 128 if sums else 64, 32, sums)


def along(shape: Map, sums: bool = False) -> Tiling:
    """Tiles of a pass over NHWC alone."""
    return tiling(shape, 16, 128, sums)


def contiguous(x: Tensor) -> Tensor:
    """Copy a map in channels_last to one that is contiguous, at the speed of memory.

    Args:
        x: Map of shape (B, C, H, W).
    """
    if not x.is_contiguous(memory_format=torch.channels_last):
        return x.clone(memory_format=torch.contiguous_format)
    shape = nchw(x)
    tile = across(shape)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    place = shape.channels, shape.unit, tile.pixels, tile.channels
    with Running("contiguous", x):
        launch(kernels.contiguous_kernel, tile.grid, x, out, shape.units, tile.chunks, *place)
    return out


def moments(
    partial: Tensor,
    *,
    images: int,
    per_image: int,
    per_run: int,
    run_length: int,
    group_pixels: int,
    eps: float | None,
    pooled: Tensor | None = None,
) -> Tensor:
    """Statistics of channels, and means of images, from partial moments.

    Args:
        partial: Sums and squared deviations, (2, branches, C, images * per_image).
        images: Images.
        per_image: Partial moments of an image.
        per_run: Consecutive ones of which only the last may stand for fewer pixels.
        run_length: Pixels behind those.
        group_pixels: Pixels behind each but the last.
        eps: Added to the variances; None for no statistics.
        pooled: Where to put the means of images, (images, C).

    Returns:
        Mean, 1 / sqrt(variance + eps) and unbiased variance, (3, branches, C); nothing is in them without eps.
    """
    _, branches, channels, _ = partial.shape
    stats = partial.new_empty(3, branches, channels)
    block_groups = 1 << (per_image - 1).bit_length()
    launch(
        kernels.moments_kernel,
        (channels, branches),
        partial[0],
        partial[1],
        None if eps is None else stats,
        pooled,
        images,
        per_image,
        per_run,
        run_length,
        group_pixels,
        channels,
        branches,
        eps,
        max(1, 2048 // block_groups),
        block_groups,
    )
    return stats


def conv_moments(partial: Tensor, cuts: Cut, batch: int, eps: float | None, pooled: Tensor | None) -> Tensor:
    """`moments` of the results of a convolution.

    Args:
        partial: From `conv.new_moments`.
        cuts: The cut.
        batch: Images.
        eps: As for `moments`.
        pooled: As for `moments`.
    """
    plane = cuts.plane
    groups = plane.groups * plane.segments
    return moments(
        partial,
        images=batch,
        per_image=groups,
        per_run=plane.segments if plane.segmented else groups,
        run_length=plane.run_length,
        group_pixels=plane.group_pixels,
        eps=eps,
        pooled=pooled,
    )
