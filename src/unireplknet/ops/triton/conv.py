"""Launchers of the convolution kernels, for one kernel and for all branches of a block.

Maps are NCHW and contiguous here. ``taps`` is one flat tensor of all branches' kernels, a branch after the other,
each (C, KH, KW), and a `Cut` says which kernels these are.
"""

import torch
from torch import Tensor

from unireplknet.ops.triton.geometry import Cut, Kernel, Plane, cut, table
from unireplknet.ops.triton.kernels import conv as kernels
from unireplknet.ops.triton.launch import launch
from unireplknet.ops.triton.tiles import Kind, Tiles, choose


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type of sums, statistics and partial results for maps of a type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def float32_precision() -> str:
    """How float32 is multiplied: by PyTorch's own setting for convolutions, which allows tf32 unless told not to.

    Without tf32 each factor is split in two tf32 halves and three of their products are kept, which has about
    float32 accuracy. AMD's compiler has neither mode; there float32 runs as it is.
    """
    if torch.version.hip:
        return "ieee"
    convolutions = getattr(torch.backends.cudnn, "conv", None)  # from torch 2.9 on
    allowed = torch.backends.cudnn.allow_tf32 if convolutions is None else convolutions.fp32_precision == "tf32"
    return "tf32" if allowed else "tf32x3"


def setting(x: Tensor) -> str | None:
    """What decides about launches beside their arguments, see `launch.Running`."""
    return float32_precision() if x.dtype == torch.float32 else None


def _steps(plane: Plane) -> int:
    """Groups of one image."""
    return plane.groups * plane.segments


def plan(kind: Kind, x: Tensor, kernels_of: tuple[Kernel, ...]) -> tuple[Tiles, Cut]:
    """Tiles of a launch and how they cut the map.

    Args:
        kind: Which launch.
        x: Map of shape (B, C, H, W).
        kernels_of: Kernels of all branches, the largest first.
    """
    tiles = choose(kind, x, kernels_of)
    return tiles, cut(x.shape[2], x.shape[3], kernels_of, tiles.group, tiles.window)


def toeplitz(
    taps: Tensor, scale: Tensor | None, cuts: Cut, like: Tensor, *, merged: bool, branches: int, flip: bool
) -> Tensor:
    """Toeplitz matrices of the first ``branches`` rows of the table, (C, matrices, K, N), in the type of a map.

    Args:
        taps: Kernels, flat.
        scale: Factor of each channel and branch, in the rows that `geometry.table` names.
        cuts: The cut.
        like: Map of shape (B, C, H, W).
        merged: Whether row 0 is the sum of the branches.
        branches: Rows of the table to write.
        flip: Turn the kernels by 180 degrees.
    """
    channels, plane = like.shape[1], cuts.plane
    counts = (cuts.steps[0], *cuts.steps) if merged else cuts.steps
    matrices = sum(counts[:branches])
    result = like.new_empty(channels, matrices, plane.block_k, plane.block_n)
    launch(
        kernels.toeplitz_kernel,
        (channels * matrices,),
        taps,
        scale,
        result,
        channels,
        matrices,
        flip,
        plane,
        table(cuts, merged),
        num_warps=8,
    )
    return result


def convolve(
    x: Tensor,
    matrices: Tensor,
    cuts: Cut,
    tiles: Tiles,
    *,
    branches: int | None = None,
    merged: bool = False,
    bias: Tensor | None = None,
    moments: Tensor | None = None,
) -> Tensor:
    """Convolve a map with the first row of the table, (B, C, H, W), or with several, (branches, B, C, H, W).

    Args:
        x: Map of shape (B, C, H, W).
        matrices: From `toeplitz`.
        cuts: The cut.
        tiles: The tiles.
        branches: Rows of the table to convolve with; None for the first, whose result has no dimension for it.
        merged: Whether row 0 is the sum of the branches.
        bias: Bias of shape (C,).
        moments: Where to put the partial moments of the results, (2, branches, C, B * groups).
    """
    batch, channels = x.shape[:2]
    rows = batch * _steps(cuts.plane)
    y = torch.empty_like(x) if branches is None else x.new_empty(branches, *x.shape)
    branches = branches or 1
    row_tiles = -(-rows // tiles.block_m)
    launch(
        kernels.conv_kernel,
        (channels * row_tiles * branches,),
        x,
        matrices,
        bias,
        y,
        None if moments is None else moments[0],
        None if moments is None else moments[1],
        rows,
        channels,
        batch * channels,
        branches,
        matrices.shape[1],
        float32_precision(),
        tiles.block_m,
        tiles.stages,
        cuts.plane,
        table(cuts, merged),
        num_warps=tiles.num_warps,
    )
    return y


def new_moments(x: Tensor, cuts: Cut, branches: int = 1) -> Tensor:
    """Room for the partial moments of the results of `convolve`."""
    rows = x.shape[0] * _steps(cuts.plane)
    return x.new_empty((2, branches, x.shape[1], rows), dtype=accumulator_dtype(x.dtype))


def transpose(
    grad: Tensor,
    ys: Tensor | None,
    center: Tensor | None,
    residual: Tensor,
    matrices: Tensor,
    cuts: Cut,
    tiles: Tiles,
) -> Tensor:
    """Input gradient of a block's depthwise layer, see `kernels.conv_transpose_kernel`.

    Args:
        grad: Gradient of the sum of the branches, of shape (B, C, H, W).
        ys: Outputs of the branches' convolutions, (branches, B, C, H, W); None for a plain kernel.
        center: Mean of each branch, (branches, C); None for a plain kernel.
        residual: Map to add, of shape (B, C, H, W).
        matrices: From `toeplitz`, turned.
        cuts: The cut.
        tiles: The tiles.
    """
    batch, channels = grad.shape[:2]
    branches = 0 if ys is None else ys.shape[0]
    rows = batch * _steps(cuts.plane)
    result = torch.empty_like(grad)
    launch(
        kernels.conv_transpose_kernel,
        (channels * -(-rows // tiles.block_m),),
        grad,
        ys,
        center,
        residual,
        matrices,
        result,
        rows,
        channels,
        batch * channels,
        branches,
        matrices.shape[1],
        float32_precision(),
        tiles.block_m,
        tiles.stages,
        cuts.plane,
        table(cuts, branches > 0),
        num_warps=tiles.num_warps,
    )
    return result


def correlate(
    x: Tensor,
    grad: Tensor,
    kernels_of: tuple[Kernel, ...],
    ys: Tensor | None,
    affine: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Weight gradients of all branches, flat like their taps; equal inputs give bit-equal results.

    Args:
        x: The convolutions' input, of shape (B, C, H, W).
        grad: Gradient of their output, of the shape and type of ``x``.
        kernels_of: The kernels.
        ys: Outputs of the branches, (branches, B, C, H, W), where ``affine`` needs them.
        affine: The map from ``grad`` to each branch's gradient, (3, branches, C), see `kernels.correlate_kernel`.
        dtype: Type of the result.
    """
    batch, channels = x.shape[:2]
    tiles, cuts = plan("correlate", x, kernels_of)
    plane, branches, matrices = cuts.plane, len(kernels_of), sum(cuts.steps)
    rows = batch * _steps(plane)
    row_tiles = -(-rows // tiles.block_m)
    splits = min(row_tiles, -(-tiles.programs // (channels * matrices)))
    partial = x.new_empty((splits, channels, matrices, plane.block_k, plane.block_n), dtype=accumulator_dtype(x.dtype))
    result = x.new_empty(channels * sum(k.height * k.width for k in kernels_of), dtype=dtype)
    launch(
        kernels.correlate_kernel,
        (channels * matrices, splits),
        x,
        grad,
        ys,
        affine,
        partial,
        rows,
        channels,
        batch * channels,
        branches,
        matrices,
        -(-row_tiles // splits),
        float32_precision(),
        tiles.block_m,
        tiles.stages,
        plane,
        table(cuts, False),
        num_warps=tiles.num_warps,
    )
    tap_rows = sum(kernel.height for kernel in kernels_of)
    launch(
        kernels.fold_kernel,
        (channels * tap_rows,),
        partial,
        result,
        channels,
        tap_rows,
        matrices,
        splits,
        1 << (max(kernel.width for kernel in kernels_of) - 1).bit_length(),
        plane,
        table(cuts, False),
    )
    return result
