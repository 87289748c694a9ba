"""The pointwise half of a block: linear, GELU, GRN, linear, norm, layer scale, drop path and shortcut.

It goes from the input of the first product, NHWC, to the block's output, NCHW. docs/kernels.md derives the formulas.
"""

import torch
from torch import Tensor

from unireplknet.ops.triton import conv
from unireplknet.ops.triton.kernels import block as kernels
from unireplknet.ops.triton.launch import Running, launch
from unireplknet.ops.triton.passes import BLOCK_ROWS, across, along, channel_block, moments, nchw, nhwc, pixel_block

# Tiles that a program goes through for the moments of a map.
_TILES = 8
# Whether a product of half-precision matrices can be had in float32, as from torch 2.8 on.
_WIDENS = hasattr(torch.ops.aten.mm, "dtype")


def grn_norms(h: Tensor, gamma: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Norms (B, 4C), mean norms plus eps (B,) and scales (B, 4C) of GRN over gelu(h).

    Args:
        h: GELU's input, of shape (B, H, W, 4C).
        gamma: GRN's weight, (4C,).
        eps: GRN's eps.
    """
    shape = nhwc(h)
    tile = along(shape, sums=True)
    dtype = conv.accumulator_dtype(h.dtype)
    sums = h.new_empty((tile.rows, shape.channels), dtype=dtype)
    launch(
        kernels.grn_sums_kernel,
        tile.grid,
        h,
        sums,
        shape.units,
        tile.chunks,
        shape.channels,
        shape.unit,
        tile.tiles,
        tile.pixels,
        tile.channels,
    )
    norm = sums.new_empty(shape.batch, shape.channels)
    mean, scale = sums.new_empty(shape.batch), torch.empty_like(norm)
    launch(
        kernels.grn_scale_kernel,
        (shape.batch,),
        sums,
        gamma,
        norm,
        mean,
        scale,
        tile.chunks,
        eps,
        shape.channels,
        BLOCK_ROWS,
    )
    return norm, mean, scale


def grn_apply(h: Tensor, scale: Tensor, beta: Tensor | None, out: Tensor) -> Tensor:
    """gelu(h) * scale + beta.

    Args:
        h: Map of shape (B, H, W, 4C).
        scale: From `grn_norms`.
        beta: GRN's bias, (4C,), or None.
        out: Where to put the result, which may be ``h``.

    Returns:
        ``out``.
    """
    shape = nhwc(h)
    tile = along(shape)
    launch(
        kernels.grn_apply_kernel,
        tile.grid,
        h,
        scale,
        beta,
        out,
        shape.units,
        tile.chunks,
        shape.channels,
        shape.unit,
        tile.pixels,
        tile.channels,
    )
    return out


def tail(
    y: Tensor,
    x: Tensor,
    stats: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    layer_scale: Tensor | None,
    keep: Tensor | None,
    channels_last: bool,
) -> Tensor:
    """Norm, layer scale, drop path and shortcut.

    Args:
        y: The second product, of shape (B, H, W, C).
        x: The shortcut, of shape (B, C, H, W).
        stats: The norm's statistics, at least mean and 1 / deviation, (2, ..., C); None for no norm.
        gamma: The norm's weight, (C,).
        beta: The norm's bias, (C,).
        layer_scale: Layer scale, (C,), or None.
        keep: Drop path's factor of each sample, (B,), or None.
        channels_last: Memory format of the output.

    Returns:
        The block's output, of the shape of ``x``.
    """
    shape = nchw(x)
    tile = across(shape)
    out = torch.empty_like(x, memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    launch(
        kernels.tail_kernel,
        tile.grid,
        y,
        x,
        stats,
        gamma,
        beta,
        layer_scale,
        keep,
        out,
        shape.units,
        tile.chunks,
        not channels_last,
        shape.channels,
        shape.unit,
        tile.pixels,
        tile.channels,
    )
    return out


def feed_forward(
    u: Tensor,
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    grn_gamma: Tensor,
    grn_beta: Tensor,
    grn_eps: float,
    weight2: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    layer_scale: Tensor | None,
    keep: Tensor | None,
    channels_last: bool,
) -> tuple[Tensor, ...]:
    """Pointwise half of a training step: linear, GELU, GRN, linear, norm, layer scale, drop path and shortcut.

    Args:
        u: Input of the first product, of shape (B, H, W, C).
        x: The shortcut, of shape (B, C, H, W).
        weight1: First weight, (4C, C), of the type of ``u``.
        bias1: First bias, (4C,), of the type of ``u``.
        grn_gamma: GRN's weight, (4C,).
        grn_beta: GRN's bias, (4C,).
        grn_eps: GRN's eps.
        weight2: Second weight, (C, 4C), of the type of ``u``.
        gamma: The norm's weight, (C,).
        beta: The norm's bias, (C,).
        eps: The norm's eps.
        layer_scale: Layer scale, (C,), or None.
        keep: Drop path's factor of each sample, (B,), or None.
        channels_last: Memory format of the block's output.

    Returns:
        The block's output (B, C, H, W); then what the backward pass needs: the first product (B, H, W, 4C), the
        second (B, H, W, C), GRN's norms (B, 4C) and mean norms plus eps (B,), and the norm's statistics (3, 1, C).
    """
    batch, height, width, channels = u.shape
    form = u, x, weight1, bias1, grn_gamma, grn_beta, grn_eps, weight2, gamma, beta, eps, layer_scale, keep
    with Running("feed_forward", u, *form, channels_last):
        h = torch.addmm(bias1, u.view(-1, channels), weight1.t()).view(batch, height, width, -1)
        norm, mean, scale = grn_norms(h, grn_gamma, grn_eps)
        z = grn_apply(h, scale, grn_beta, torch.empty_like(h))
        y = torch.mm(z.view(-1, z.shape[-1]), weight2.t())
        del z
        stats = _tail_moments(y, eps)
        y = y.view(u.shape)
        out = tail(y, x, stats, gamma, beta, layer_scale, keep, channels_last)
    return out, h, y, norm, mean, stats


def _tail_moments(y: Tensor, eps: float) -> Tensor:
    """Statistics of a map in NHWC, given as (pixels, C)."""
    rows, channels = y.shape
    pixels, block = pixel_block(rows, 64), channel_block(channels, 64)
    tiles = max(1, min(_TILES, rows // pixels))
    chunks = -(-rows // (pixels * tiles))
    partial = y.new_empty((2, 1, channels, chunks), dtype=conv.accumulator_dtype(y.dtype))
    launch(
        kernels.tail_moments_kernel,
        (chunks, -(-channels // block)),
        y,
        partial[0],
        partial[1],
        rows,
        chunks,
        channels,
        tiles,
        pixels,
        block,
    )
    # The whole batch is one run: chunks do not end where images do.
    return moments(
        partial,
        images=chunks,
        per_image=1,
        per_run=chunks,
        run_length=rows,
        group_pixels=pixels * tiles,
        eps=eps,
    )


def feed_forward_backward(
    grad: Tensor,
    u: Tensor,
    h: Tensor,
    y: Tensor,
    norm: Tensor,
    mean: Tensor,
    stats: Tensor,
    weight1: Tensor,
    grn_gamma: Tensor,
    grn_beta: Tensor,
    weight2: Tensor,
    gamma: Tensor,
    beta: Tensor,
    layer_scale: Tensor | None,
    keep: Tensor | None,
) -> tuple[Tensor, ...]:
    """Backward pass of `feed_forward`, without its shortcut.

    Args:
        grad: Gradient of the block's output, NCHW.
        u: Input of the first product.
        h: The first product.
        y: The second product.
        norm: GRN's norms.
        mean: GRN's mean norms plus eps.
        stats: The norm's statistics.
        weight1: First weight.
        grn_gamma: GRN's weight.
        grn_beta: GRN's bias.
        weight2: Second weight.
        gamma: The norm's weight.
        beta: The norm's bias.
        layer_scale: Layer scale, or None.
        keep: Drop path's factor of each sample, or None.

    Returns:
        Gradients of u, of the first weight and bias, of GRN's weight and bias, of the second weight, of the norm's
        weight and bias, and of the layer scale (empty without one); those of the weights in the type of GRN's.
    """
    channels = u.shape[3]
    form = grad, u, h, y, weight1, grn_gamma, grn_beta, weight2, gamma, beta, layer_scale, keep
    with Running("feed_forward_backward", u, *form):
        grad_y, *tail = _tail_backward(grad, y, stats, gamma, beta, layer_scale, keep)
        grad_y = grad_y.view(-1, channels)
        grad_z = torch.mm(grad_y, weight2).view(h.shape)
        grad_h, z, *grn = _grn_backward(grad_z, h, norm, mean, grn_gamma, grn_beta)
        grad_weight2 = _outer(grad_y, z.view(-1, z.shape[-1]), grn_gamma.dtype)
        del z, grad_z
        grad_h = grad_h.view(-1, h.shape[-1])
        grad_weight1 = _outer(grad_h, u.view(-1, channels), grn_gamma.dtype)
        grad_u = torch.mm(grad_h, weight1).view(u.shape)
    grad_gamma, grad_beta, grad_bias1 = grn
    return grad_u, grad_weight1, grad_bias1, grad_gamma, grad_beta, grad_weight2, *tail


def _outer(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    """a.T @ b, (M, N), rounded once, to the given type."""
    # Products in half precision can be had in float32, and in no third type.
    if a.is_cuda and a.dtype.itemsize == 2 and dtype == torch.float32 and _WIDENS:
        return torch.mm(a.t(), b, out_dtype=dtype)
    return torch.mm(a.t(), b).to(dtype)


def _tail_backward(
    grad: Tensor,
    y: Tensor,
    stats: Tensor,
    gamma: Tensor,
    beta: Tensor,
    layer_scale: Tensor | None,
    keep: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gradients of the second product (NHWC), of the norm's weight and bias, and of the layer scale."""
    shape = nchw(grad)
    tile = across(shape, sums=True)
    rows = tile.rows
    sums = stats.new_empty(2, shape.channels, rows)
    launch(
        kernels.tail_sums_kernel,
        tile.grid,
        grad,
        y,
        stats,
        keep,
        sums,
        shape.units,
        rows,
        tile.chunks,
        shape.channels,
        shape.unit,
        tile.tiles,
        tile.pixels,
        tile.channels,
    )
    totals = stats.new_empty(2, shape.channels)
    grad_gamma, grad_beta = torch.empty_like(gamma), torch.empty_like(beta)
    grad_scale = gamma.new_empty(0) if layer_scale is None else torch.empty_like(layer_scale)
    launch(
        kernels.tail_grad_kernel,
        (shape.channels,),
        sums,
        gamma,
        beta,
        layer_scale,
        totals,
        grad_gamma,
        grad_beta,
        grad_scale,
        rows,
        shape.channels,
        BLOCK_ROWS,
    )
    tile = across(shape)
    grad_y = torch.empty_like(y)
    launch(
        kernels.tail_backward_kernel,
        tile.grid,
        grad,
        y,
        stats,
        gamma,
        layer_scale,
        keep,
        totals,
        grad_y,
        shape.units,
        tile.chunks,
        shape.channels,
        shape.unit,
        tile.pixels,
        tile.channels,
    )
    return grad_y, grad_gamma, grad_beta, grad_scale


def _grn_backward(
    grad: Tensor, h: Tensor, norm: Tensor, mean: Tensor, gamma: Tensor, beta: Tensor
) -> tuple[Tensor, ...]:
    """Gradient of h, in the memory of ``grad``; GRN's output; gradients of GRN's weight, its bias, and h's bias."""
    shape = nhwc(h)
    tile = along(shape, sums=True)
    sums = norm.new_empty(2, tile.rows, shape.channels)
    place = (shape.channels, shape.unit, tile.tiles, tile.pixels, tile.channels)
    launch(kernels.grn_grad_sums_kernel, tile.grid, grad, h, sums, shape.units, tile.chunks, *place)
    scale, pull = torch.empty_like(norm), torch.empty_like(norm)
    parts = norm.new_empty(2, shape.batch, shape.channels)
    launch(
        kernels.grn_grad_scale_kernel,
        (shape.batch,),
        sums,
        gamma,
        norm,
        mean,
        scale,
        pull,
        parts,
        tile.chunks,
        shape.channels,
        BLOCK_ROWS,
    )
    z, bias_parts = torch.empty_like(h), sums[0]
    launch(
        kernels.grn_backward_kernel,
        tile.grid,
        grad,
        h,
        scale,
        pull,
        beta,
        grad,
        z,
        bias_parts,
        shape.units,
        tile.chunks,
        *place,
        num_warps=8,
    )
    grads = [torch.empty_like(gamma) for _ in range(3)]
    block = channel_block(shape.channels, 32)
    launch(
        kernels.column_sums_kernel,
        (3, -(-shape.channels // block)),
        parts,
        bias_parts,
        *grads,
        shape.batch,
        tile.rows,
        shape.channels,
        64,
        block,
    )
    return grad, z, *grads
