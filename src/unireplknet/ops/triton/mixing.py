"""The depthwise half of a block: convolutions, their norms, the outer norm and SE, in training.

It goes from the block's input, NCHW, to the input of its first product, NHWC. docs/kernels.md derives the formulas.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unireplknet.ops.triton import conv
from unireplknet.ops.triton.geometry import Kernel
from unireplknet.ops.triton.kernels import block as kernels
from unireplknet.ops.triton.kernels import squeeze
from unireplknet.ops.triton.launch import Running, launch
from unireplknet.ops.triton.passes import BLOCK_ROWS, across, conv_moments, moments, nchw, tiling
from unireplknet.ops.triton.tiles import are_shipped

# Images and channels of a tile of SE's small products, and channels or images that a sum goes through at a time.
_SE_IMAGES, _SE_CHANNELS, _SE_DEPTH = 16, 32, 64


class SqueezeExcite(NamedTuple):
    """Parameters of SE: weights of shape (R, C) and (C, R), possibly with further dimensions of 1."""

    weight1: Tensor
    bias1: Tensor
    weight2: Tensor
    bias2: Tensor


def se_precision(dtype: torch.dtype) -> str:
    """How SE's products are computed: in tf32 where its layers would run in half precision.

    Args:
        dtype: Type of the maps.
    """
    return "tf32" if dtype.itemsize == 2 and not torch.version.hip else "ieee"


def gate(
    pooled: Tensor,
    stats: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    se: SqueezeExcite,
    precision: str,
) -> tuple[Tensor, Tensor]:
    """SE's hidden vector and gate.

    Args:
        pooled: Each image's mean before the norm, (B, C).
        stats: The norm's statistics, at least mean and 1 / deviation, (2, ..., C); None for no norm.
        gamma: The norm's weight, (C,).
        beta: The norm's bias, (C,).
        se: SE's parameters.
        precision: From `se_precision`.

    Returns:
        The hidden vector (B, R) and the gate (B, C).
    """
    images, channels = pooled.shape
    reduced = se.weight1.shape[0]
    hidden, result = pooled.new_empty(images, reduced), torch.empty_like(pooled)
    launch(
        squeeze.squeeze_kernel,
        (-(-images // _SE_IMAGES), -(-reduced // _SE_CHANNELS)),
        pooled,
        stats,
        gamma,
        beta,
        se.weight1,
        se.bias1,
        hidden,
        images,
        channels,
        reduced,
        precision,
        _SE_IMAGES,
        _SE_CHANNELS,
        _SE_DEPTH,
    )
    launch(
        squeeze.excite_kernel,
        (-(-images // _SE_IMAGES), -(-channels // _SE_CHANNELS)),
        hidden,
        se.weight2,
        se.bias2,
        result,
        images,
        channels,
        reduced,
        precision,
        _SE_IMAGES,
        _SE_DEPTH,
        _SE_CHANNELS,
    )
    return hidden, result


def scale(y: Tensor, stats: Tensor | None, gamma: Tensor | None, beta: Tensor | None, gate: Tensor) -> Tensor:
    """gate * norm(y), from NCHW to NHWC.

    Args:
        y: Map of shape (B, C, H, W).
        stats: The norm's statistics, at least mean and 1 / deviation, (2, ..., C); None for no norm.
        gamma: The norm's weight, (C,).
        beta: The norm's bias, (C,).
        gate: SE's gate, (B, C).

    Returns:
        Map of shape (B, H, W, C).
    """
    shape = nchw(y)
    tile = across(shape)
    u = y.new_empty(shape.batch, *y.shape[2:], shape.channels)
    launch(
        kernels.scale_kernel,
        tile.grid,
        y,
        stats,
        gamma,
        beta,
        gate,
        u,
        shape.units,
        tile.chunks,
        shape.channels,
        shape.unit,
        tile.pixels,
        tile.channels,
    )
    return u


def _combine(ys: Tensor, stats: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, int]:
    """Sum of the normalized branches, its partial moments (2, 1, C, rows), and the pixels behind each of those."""
    shape = nchw(ys[0])
    tile = tiling(shape, 128, 16)
    y = torch.empty_like(ys[0])
    partial = stats.new_empty(2, 1, shape.channels, tile.rows)
    launch(
        kernels.combine_kernel,
        tile.grid,
        ys,
        stats,
        gamma,
        beta,
        y,
        partial[0],
        partial[1],
        shape.units,
        shape.batch,
        tile.rows,
        tile.chunks,
        ys.shape[0],
        shape.channels,
        shape.unit,
        tile.pixels,
        tile.channels,
        num_warps=8,
    )
    return y, partial, tile.pixels


def mix(
    x: Tensor,
    taps: Tensor,
    kernels_of: tuple[Kernel, ...],
    branch_gamma: Tensor | None,
    branch_beta: Tensor | None,
    branch_eps: float,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    se: SqueezeExcite,
) -> tuple[Tensor, ...]:
    """Depthwise half of a training step: convolutions, their norms, the outer norm and SE.

    Args:
        x: Input of shape (B, C, H, W).
        taps: Kernels of all branches, flat.
        kernels_of: Their sizes and dilations.
        branch_gamma: Weights of the branches' norms, (branches, C); None for one plain kernel without a norm.
        branch_beta: Their biases.
        branch_eps: Their eps.
        gamma: The outer norm's weight, (C,).
        beta: Its bias.
        eps: Its eps.
        se: SE's parameters.

    Returns:
        SE's output in NHWC; then what the backward pass needs: the branches' convolutions (branches, B, C, H, W),
        their sum after the norms, the branches' statistics (3, branches, C), those of the outer norm (3, 1, C), the
        pooled map (B, C), SE's hidden vector (B, R) and its gate (B, C).
    """
    batch, channels = x.shape[:2]
    branches = len(kernels_of)
    tiles, cuts = conv.plan("conv", x, kernels_of)
    form = taps, branch_gamma, branch_beta, gamma, beta, *se, cuts, branch_eps, eps, conv.setting(x)
    with Running("mix", x, x, *form, replay=are_shipped()):
        matrices = conv.toeplitz(taps, None, cuts, x, merged=False, branches=branches, flip=False)
        partial = conv.new_moments(x, cuts, branches)
        pooled = partial.new_empty(batch, channels)
        if branch_gamma is None or branch_beta is None:
            y = conv.convolve(x, matrices, cuts, tiles, moments=partial)
            ys, branch_stats = x.new_empty(0, *x.shape), partial.new_empty(3, 0, channels)
            stats = conv_moments(partial, cuts, batch, eps, pooled)
        else:
            ys = conv.convolve(x, matrices, cuts, tiles, branches=branches, moments=partial)
            branch_stats = conv_moments(partial, cuts, batch, branch_eps, None)
            y, partial, pixels = _combine(ys, branch_stats, branch_gamma, branch_beta)
            chunks, plane = partial.shape[-1] // batch, y.shape[2] * y.shape[3]
            stats = moments(
                partial,
                images=batch,
                per_image=chunks,
                per_run=chunks,
                run_length=plane,
                group_pixels=pixels,
                eps=eps,
                pooled=pooled,
            )
        hidden, factor = gate(pooled, stats, gamma, beta, se, se_precision(x.dtype))
        u = scale(y, stats, gamma, beta, factor)
    return u, ys, y, branch_stats, stats, pooled, hidden, factor


def mix_backward(
    grad: Tensor,
    residual: Tensor,
    x: Tensor,
    ys: Tensor,
    y: Tensor,
    branch_stats: Tensor,
    stats: Tensor,
    pooled: Tensor,
    hidden: Tensor,
    factor: Tensor,
    taps: Tensor,
    kernels_of: tuple[Kernel, ...],
    branch_gamma: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    se: SqueezeExcite,
) -> tuple[Tensor, ...]:
    """Backward pass of `mix`.

    Args:
        grad: Gradient of SE's output, NHWC.
        residual: Gradient of the shortcut, NCHW, to be added to that of the input.
        x: Input of `mix`.
        ys: The branches' convolutions.
        y: Their sum after their norms.
        branch_stats: Statistics of the branches' norms.
        stats: Statistics of the outer norm.
        pooled: Means of images.
        hidden: SE's hidden layer.
        factor: SE's gate.
        taps: Kernels of all branches, flat.
        kernels_of: Their sizes and dilations.
        branch_gamma: Weights of the branches' norms, or None.
        gamma: The outer norm's weight.
        beta: The outer norm's bias.
        se: SE's parameters.

    Returns:
        Gradients of x, of the taps, of the branch norms' weights and biases (2, branches, C), of the outer norm's
        weight and bias (2, C), and of SE's four parameters. Those of the branch norms' biases are zero: the outer
        norm follows.
    """
    branches = ys.shape[0]
    tiles, cuts = conv.plan("transpose", x, kernels_of)
    form = grad, residual, x, taps, branch_gamma, gamma, beta, *se, cuts, conv.setting(x)
    with Running("mix_backward", x, *form, replay=are_shipped()):
        grad_norm, grad_pooled, grad_se = _gate_backward(grad, y, stats, pooled, hidden, factor, gamma, beta, se)
        grad_y, grad_gamma, affine = _scale_backward(
            grad, y, stats, gamma, factor, grad_pooled, grad_norm, ys, branch_stats, branch_gamma
        )
        merged = affine is not None
        matrices = conv.toeplitz(taps, affine, cuts, x, merged=merged, branches=branches + 1, flip=True)
        outputs, center = (ys, affine[2]) if affine is not None else (None, None)
        grad_x = conv.transpose(grad_y, outputs, center, residual, matrices, cuts, tiles)
        grad_taps = conv.correlate(x, grad_y, kernels_of, outputs, affine, taps.dtype)
    return grad_x, grad_taps, grad_gamma, grad_norm, *grad_se


def _scale_backward(
    grad: Tensor,
    y: Tensor,
    stats: Tensor,
    gamma: Tensor,
    factor: Tensor,
    grad_pooled: Tensor,
    grad_norm: Tensor,
    ys: Tensor,
    branch_stats: Tensor,
    branch_gamma: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of y and of the branch norms (2, branches, C), and the map from the former to each branch's."""
    shape = nchw(y)
    branches = ys.shape[0]
    # Wide tiles where each program leaves a sum for every branch and channel.
    tile = tiling(shape, 128, 32) if branches else across(shape)
    grad_y = torch.empty_like(y)
    sums = stats.new_empty(branches, shape.channels, tile.rows)
    launch(
        kernels.scale_backward_kernel,
        tile.grid,
        grad,
        y,
        stats,
        gamma,
        factor,
        grad_pooled,
        grad_norm,
        ys if branches else None,
        branch_stats if branches else None,
        grad_y,
        sums if branches else None,
        shape.units,
        tile.rows,
        tile.chunks,
        branches,
        shape.channels,
        shape.unit,
        tile.pixels,
        tile.channels,
    )
    if branch_gamma is None:
        return grad_y, stats.new_empty(2, 0, shape.channels), None
    grad_gamma = branch_gamma.new_empty(2, branches, shape.channels)
    affine = stats.new_empty(3, branches, shape.channels)
    launch(
        kernels.branch_grad_kernel,
        (shape.channels, branches),
        sums,
        branch_stats,
        branch_gamma,
        affine,
        grad_gamma,
        tile.rows,
        shape.batch * shape.pixels,
        shape.channels,
        branches,
        BLOCK_ROWS,
    )
    return grad_y, grad_gamma, affine


def _gate_backward(
    grad: Tensor,
    y: Tensor,
    stats: Tensor,
    pooled: Tensor,
    hidden: Tensor,
    factor: Tensor,
    gamma: Tensor,
    beta: Tensor,
    se: SqueezeExcite,
) -> tuple[Tensor, Tensor, SqueezeExcite]:
    """Gradients of the outer norm's parameters (2, C), of the pooled map after it (B, C), and of SE's parameters."""
    shape = nchw(y)
    images, channels = pooled.shape
    reduced = hidden.shape[1]
    tile = across(shape, sums=True)
    sums = stats.new_empty(2, tile.rows, channels)
    launch(
        kernels.gate_sums_kernel,
        tile.grid,
        grad,
        y,
        stats,
        sums,
        shape.units,
        tile.chunks,
        channels,
        shape.unit,
        tile.tiles,
        tile.pixels,
        tile.channels,
    )
    totals = stats.new_empty(2, images, channels)
    grad_logit, grad_hidden = torch.empty_like(factor), torch.empty_like(hidden)
    precision = se_precision(y.dtype)
    launch(
        squeeze.excite_backward_kernel,
        (-(-images // _SE_IMAGES), -(-reduced // _SE_CHANNELS)),
        sums,
        gamma,
        beta,
        factor,
        hidden,
        se.weight2,
        totals,
        grad_logit,
        grad_hidden,
        images,
        tile.chunks,
        channels,
        reduced,
        precision,
        _SE_IMAGES,
        _SE_CHANNELS,
        _SE_DEPTH,
    )
    image_blocks, channel_blocks = -(-images // _SE_IMAGES), -(-channels // _SE_CHANNELS)
    grad_pooled, parts = torch.empty_like(factor), stats.new_empty(image_blocks, 2, channels)
    launch(
        squeeze.squeeze_backward_kernel,
        (image_blocks, channel_blocks),
        grad_hidden,
        se.weight1,
        totals,
        factor,
        pooled,
        stats,
        grad_pooled,
        parts,
        images,
        channels,
        reduced,
        precision,
        _SE_IMAGES,
        _SE_DEPTH,
        _SE_CHANNELS,
    )
    grads = SqueezeExcite(*(torch.empty_like(parameter) for parameter in se))
    grad_norm = stats.new_empty(2, channels)
    launch(
        squeeze.squeeze_weights_kernel,
        (channel_blocks, -(-reduced // _SE_CHANNELS)),
        grad_logit,
        grad_hidden,
        hidden,
        pooled,
        stats,
        gamma,
        beta,
        parts,
        *grads,
        grad_norm,
        images,
        image_blocks,
        channels,
        reduced,
        precision,
        # Exact float32 products have no matrix unit: more images at a time would not fit the registers.
        _SE_IMAGES if precision == "ieee" else _SE_DEPTH,
        _SE_CHANNELS,
        _SE_CHANNELS,
    )
    return grad_norm, grad_pooled, grads
