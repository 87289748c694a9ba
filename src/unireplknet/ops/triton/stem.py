"""Launchers of the kernels of stem and downsampling."""

import math

import torch
import triton.language as tl
from torch import Tensor

from unireplknet.ops.triton.conv import accumulator_dtype, float32_precision, setting
from unireplknet.ops.triton.kernels import stem as kernels
from unireplknet.ops.triton.launch import Running, launch

# Elements of a tile in each pass, and tiles that a program of the backward pass goes through.
_FORWARD, _BACKWARD, _TILES = 4096, 2048, 8


def _is_nchw(x: Tensor) -> bool:
    return not (x.is_contiguous(memory_format=torch.channels_last) and x.stride(1) == 1)


def _format(nchw: bool) -> torch.memory_format:
    return torch.contiguous_format if nchw else torch.channels_last


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _warps(block_c: int) -> int:
    """Warps of a program: more where a pixel's channels alone fill their registers."""
    return 8 if block_c >= 512 else 4


def _blocks(channels: int, elements: int) -> tuple[int, int]:
    """Pixels and channels of a tile that holds all channels."""
    block_c = max(16, 1 << (channels - 1).bit_length())
    return max(4, elements // block_c), block_c


def layer_norm(
    y: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool, channels_last: bool
) -> Tensor:
    """LayerNorm over channels, and GELU, in one pass.

    Args:
        y: Map of shape (B, C, H, W), contiguous or channels_last.
        shift: Bias of the convolution before, which gave ``y`` without it, (C,).
        weight: Weight, (C,).
        bias: Bias, (C,).
        eps: Added to the variance.
        gelu: Whether GELU follows.
        channels_last: Memory format of the result.

    Returns:
        Map of shape (B, C, H, W) in the type of ``y``.
    """
    y = _dense(y)
    batch, channels, height, width = y.shape
    pixels, unit = height * width, math.gcd(height * width, 16)
    block_p, block_c = _blocks(channels, _FORWARD)
    chunks = -(-pixels // block_p)
    z = torch.empty_like(y, memory_format=_format(not channels_last))
    with Running("layer_norm", y, y, shift, weight, bias, eps, gelu, channels_last, _is_nchw(y)):
        launch(
            kernels.layer_norm_kernel,
            (batch * chunks,),
            y,
            shift,
            weight,
            bias,
            z,
            pixels // unit,
            chunks,
            eps,
            gelu,
            _is_nchw(y),
            not channels_last,
            tl.float64 if y.dtype == torch.float64 else tl.float32,
            channels,
            unit,
            block_p,
            block_c,
            num_warps=_warps(block_c),
        )
    return z


def layer_norm_backward(
    grad: Tensor, y: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, eps: float, gelu: bool
) -> tuple[Tensor, Tensor]:
    """Backward pass of `layer_norm`, from its input alone.

    Args:
        grad: Gradient of its result, in either memory format.
        y: Its input.
        shift: Bias of the convolution before, (C,).
        weight: Weight, (C,).
        bias: Bias, (C,).
        eps: Added to the variance.
        gelu: Whether GELU follows.

    Returns:
        Gradients of y, in its memory format, and of shift, weight and bias together, (3, C).
    """
    grad, y = _dense(grad), _dense(y)
    batch, channels, height, width = y.shape
    pixels, unit = height * width, math.gcd(height * width, 16)
    block_p, block_c = _blocks(channels, _BACKWARD)
    tiles = min(_TILES, -(-pixels // block_p))
    chunks = -(-pixels // (block_p * tiles))
    programs = batch * chunks
    grad_y = torch.empty_like(y)
    sums = y.new_empty((programs, 3, channels), dtype=accumulator_dtype(y.dtype))
    with Running("layer_norm_backward", y, grad, y, shift, weight, bias, eps, gelu, _is_nchw(y), _is_nchw(grad)):
        launch(
            kernels.layer_norm_backward_kernel,
            (programs,),
            grad,
            y,
            shift,
            weight,
            bias,
            grad_y,
            sums,
            pixels // unit,
            chunks,
            eps,
            gelu,
            _is_nchw(y),
            _is_nchw(grad),
            channels,
            unit,
            tiles,
            block_p,
            block_c,
            num_warps=_warps(block_c),
        )
    return grad_y, sums.sum(0).to(weight.dtype)


def conv_norm(
    x: Tensor,
    weight: Tensor,
    stride: int,
    shift: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    gelu: bool,
    channels_last: bool,
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """3x3 convolution with padding 1, LayerNorm over channels and GELU in one pass, for few channels.

    Args:
        x: Map of shape (B, C', H, W), contiguous or channels_last.
        weight: Weight, (C, C', 3, 3).
        stride: Stride.
        shift: Bias, (C,).
        norm_weight: The norm's weight, (C,).
        norm_bias: The norm's bias, (C,).
        eps: Added to the variance.
        gelu: Whether GELU follows.
        channels_last: Memory format of the result.
        keep: Whether the convolution's own output, without its bias, is wanted.

    Returns:
        Map of shape (B, C, ceil(H / stride), ceil(W / stride)) in the type of ``x``, and the convolution's own output,
        channels_last, or nothing, of shape (0,).
    """
    x = _dense(x)
    batch, in_channels, height, width = x.shape
    channels = weight.shape[0]
    out = (-(-height // stride), -(-width // stride))
    z = torch.empty((batch, channels, *out), dtype=x.dtype, device=x.device, memory_format=_format(not channels_last))
    pixels = out[0] * out[1]
    unit = math.gcd(pixels, 16)
    block_c = max(16, 1 << (channels - 1).bit_length())
    block_p = 128 if block_c <= 64 else 64
    chunks = -(-pixels // block_p)
    y = torch.empty_like(z, memory_format=torch.channels_last) if keep else x.new_empty(0)
    form = x, weight, shift, norm_weight, norm_bias, stride, eps, gelu, channels_last, keep, _is_nchw(x), channels
    with Running("conv_norm", x, *form, setting(x)):
        launch(
            kernels.conv_norm_kernel,
            (batch * chunks,),
            x,
            weight.contiguous(),
            shift,
            norm_weight,
            norm_bias,
            y if keep else None,
            z,
            height,
            width,
            out[1],
            pixels // unit,
            chunks,
            stride,
            eps,
            float32_precision(),
            gelu,
            _is_nchw(x),
            not channels_last,
            tl.float64 if x.dtype == torch.float64 else tl.float32,
            in_channels,
            channels,
            unit,
            block_p,
            32,
            block_c,
        )
    return z, y
