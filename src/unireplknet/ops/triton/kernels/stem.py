"""Triton kernels of stem and downsampling: channel LayerNorm in either layout, alone or behind a 3x3 convolution."""

# The types of kernel arguments are Triton's, not Python's.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from unireplknet.ops.triton.kernels.block import _gelu, _gelu_and_slope, _nhwc, _place, _vector


@triton.jit
def _normalize(y, c, C: tl.constexpr, eps: tl.constexpr):
    """Rows without mean and deviation, and 1 / deviation."""
    y = tl.where((c < C)[None, :], y, 0)
    mean = tl.sum(y, axis=1) / C
    y = tl.where((c < C)[None, :], y - mean[:, None], 0)
    rstd = 1 / tl.sqrt(tl.sum(y * y, axis=1) / C + eps)
    return y * rstd[:, None], rstd


@triton.jit(do_not_specialize=["units"])
def layer_norm_kernel(
    y_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    z_ptr,
    units,
    chunks,
    eps: tl.constexpr,
    has_gelu: tl.constexpr,
    from_nchw: tl.constexpr,
    to_nchw: tl.constexpr,
    dtype: tl.constexpr,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """LayerNorm over the channels of y + shift, and GELU."""
    P = units * unit
    image = tl.program_id(0) // chunks
    p, c = tl.program_id(0) % chunks * block_p + tl.arange(0, block_p), tl.arange(0, block_c)
    inside = (p < P)[:, None] & (c < C)[None, :]
    y = tl.load(y_ptr + _place(image, p, c, P, C, from_nchw), mask=inside, other=0).to(dtype)
    z, _ = _normalize(y + _vector(shift_ptr, c, C, dtype)[None, :], c, C, eps)
    z = z * _vector(weight_ptr, c, C, dtype)[None, :] + _vector(bias_ptr, c, C, dtype)[None, :]
    if has_gelu:
        z = _gelu(z, y_ptr.dtype.element_ty.primitive_bitwidth == 16)
    tl.store(z_ptr + _place(image, p, c, P, C, to_nchw), z.to(z_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["units"])
def layer_norm_backward_kernel(
    grad_ptr,
    y_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    grad_y_ptr,
    sum_ptr,
    units,
    chunks,
    eps: tl.constexpr,
    has_gelu: tl.constexpr,
    from_nchw: tl.constexpr,
    to_nchw: tl.constexpr,
    C: tl.constexpr,
    unit: tl.constexpr,
    tiles: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Gradient of y, in its layout, and partial gradients of shift, weight and bias, (programs, 3, C)."""
    P = units * unit
    image, c = tl.program_id(0) // chunks, tl.arange(0, block_c)
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    shift = _vector(shift_ptr, c, C, dtype)[None, :]
    weight, bias = _vector(weight_ptr, c, C, dtype)[None, :], _vector(bias_ptr, c, C, dtype)[None, :]
    grad_shift = tl.zeros((block_p, block_c), dtype)
    grad_weight, grad_bias = tl.zeros((block_p, block_c), dtype), tl.zeros((block_p, block_c), dtype)
    for tile in range(tiles):
        p = (tl.program_id(0) % chunks * tiles + tile) * block_p + tl.arange(0, block_p)
        inside = (p < P)[:, None] & (c < C)[None, :]
        at = _place(image, p, c, P, C, from_nchw)
        y, rstd = _normalize(tl.load(y_ptr + at, mask=inside, other=0).to(dtype) + shift, c, C, eps)
        grad = tl.load(grad_ptr + _place(image, p, c, P, C, to_nchw), mask=inside, other=0).to(dtype)
        if has_gelu:
            _, slope = _gelu_and_slope(y * weight + bias, y_ptr.dtype.element_ty.primitive_bitwidth == 16)
            grad *= slope
        grad_weight += grad * y
        grad_bias += grad
        grad *= weight
        mean, dot = tl.sum(grad, axis=1) / C, tl.sum(grad * y, axis=1) / C
        grad = tl.where(inside, (grad - mean[:, None] - y * dot[:, None]) * rstd[:, None], 0)
        grad_shift += grad
        tl.store(grad_y_ptr + at, grad.to(grad_y_ptr.dtype.element_ty), mask=inside)
    at = tl.program_id(0) * 3 * C + c
    tl.store(sum_ptr + at, tl.sum(grad_shift, axis=0), mask=c < C)
    tl.store(sum_ptr + at + C, tl.sum(grad_weight, axis=0), mask=c < C)
    tl.store(sum_ptr + at + 2 * C, tl.sum(grad_bias, axis=0), mask=c < C)


@triton.jit(do_not_specialize=["height", "width", "out_width", "units"])
def conv_norm_kernel(
    x_ptr,
    weight_ptr,
    shift_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    y_ptr,
    z_ptr,
    height,
    width,
    out_width,
    units,
    chunks,
    stride: tl.constexpr,
    eps: tl.constexpr,
    precision: tl.constexpr,
    has_gelu: tl.constexpr,
    from_nchw: tl.constexpr,
    to_nchw: tl.constexpr,
    dtype: tl.constexpr,
    in_channels: tl.constexpr,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_k: tl.constexpr,
    block_c: tl.constexpr,
):
    """3x3 convolution with padding 1, channel LayerNorm and GELU of few channels, all of them in one tile.

    The convolution's output without its bias, ``shift``, goes to ``y``, NHWC, where the backward pass wants it.
    """
    P = units * unit
    image = tl.program_id(0) // chunks
    p = tl.program_id(0) % chunks * block_p + tl.arange(0, block_p)
    top, left = (p // out_width) * stride - 1, (p % out_width) * stride - 1
    c = tl.arange(0, block_c)
    acc = tl.zeros((block_p, block_c), dtype)
    x_ptr += image.to(tl.int64) * in_channels * height * width
    taps: tl.constexpr = 9 * in_channels
    for first in range(0, taps, block_k):
        k = first + tl.arange(0, block_k)
        if from_nchw:  # neighbors in memory are neighbors here
            channel, tap = k // 9, k % 9
        else:
            channel, tap = k % in_channels, k // in_channels
        at_y, at_x = top[:, None] + (tap // 3)[None, :], left[:, None] + (tap % 3)[None, :]
        inside = (p < P)[:, None] & (k < taps)[None, :]
        inside &= (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        if from_nchw:
            at = (channel[None, :] * height + at_y) * width + at_x
        else:
            at = (at_y * width + at_x) * in_channels + channel[None, :]
        values = tl.load(x_ptr + at, mask=inside, other=0)
        weight = tl.load(
            weight_ptr + c[None, :] * taps + (channel * 9 + tap)[:, None],
            mask=(k < taps)[:, None] & (c < C)[None, :],
            other=0,
        )
        acc = tl.dot(values, weight.to(values.dtype), acc, input_precision=precision, out_dtype=dtype)
    inside = (p < P)[:, None] & (c < C)[None, :]
    # Rounded as the convolution's output would be, so that the backward pass sees the same.
    y = acc.to(z_ptr.dtype.element_ty)
    if y_ptr is not None:
        tl.store(y_ptr + _nhwc(image, p, c, P, C), y, mask=inside)
    z, _ = _normalize(y.to(dtype) + _vector(shift_ptr, c, C, dtype)[None, :], c, C, eps)
    z = z * _vector(norm_weight_ptr, c, C, dtype)[None, :] + _vector(norm_bias_ptr, c, C, dtype)[None, :]
    if has_gelu:
        z = _gelu(z, x_ptr.dtype.element_ty.primitive_bitwidth == 16)
    tl.store(z_ptr + _place(image, p, c, P, C, to_nchw), z.to(z_ptr.dtype.element_ty), mask=inside)
