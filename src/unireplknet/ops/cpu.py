"""Depthwise convolution on CPUs, from the PyTorch calls that oneDNN runs fast.

Three facts shape this file (figures: benchmarks/results/):

* The weight gradient of a grouped convolution is slow in PyTorch (tens of times its forward pass), but it
  is itself a grouped forward convolution: each image plane convolved with its gradient plane, summed over
  the batch. The input gradient is the forward convolution with the flipped kernel.
* oneDNN's blocked kernel (planes in, planes out) needs padding of at most 6 pixels and stride of at most 3;
  outside those limits it silently falls back to a matrix product that is tens of times slower. Its
  channels_last kernel has no such limit.
* A tap further from the centre than the map is wide only ever multiplies padding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PADDING = 6
MAX_STRIDE = 3


def can_use(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    """Say why this backend cannot run the call, or return None."""
    if x.device.type != "cpu":
        return f"the cpu backend needs CPU tensors, x is on {x.device}"
    return None


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Differentiable "same" depthwise convolution; see `unireplknet.ops.depthwise_conv2d`."""
    if not _needs_gradient(x, weight, bias):
        return forward(x, weight, dilation, bias)
    return _DepthwiseConv2d.apply(x, weight, bias, dilation)


class _DepthwiseConv2d(torch.autograd.Function):
    # Everything inside is an ordinary differentiable call, so that double backward comes from autograd and
    # vmap from the generated rule.
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        return forward(x, weight, dilation, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, int], output: Tensor) -> None:
        x, weight, _, ctx.dilation = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        need_x, need_weight, need_bias, _ = ctx.needs_input_grad
        return (
            grad_input(grad, weight, ctx.dilation) if need_x else None,
            grad_weight(x, grad, (weight.shape[2], weight.shape[3]), ctx.dilation) if need_weight else None,
            grad.sum((0, 2, 3)) if need_bias else None,
            None,
        )


def forward(x: Tensor, weight: Tensor, dilation: int, bias: Tensor | None = None) -> Tensor:
    """Convolve without recording a custom gradient.

    Args:
        x: Input of shape (B, C, H, W).
        weight: Kernels of shape (C, 1, KH, KW), KH and KW odd.
        dilation: Spacing between taps, in pixels.
        bias: Optional bias of shape (C,).

    Returns:
        Output of shape (B, C, H, W) in the memory format of ``x``.
    """
    kernel_size = _reach(x, (weight.shape[2], weight.shape[3]), dilation)
    weight = _centre(weight, kernel_size)
    channels_last = _is_channels_last(x)
    if _fast_in_channels_last(kernel_size, channels_last):
        y = _convolve(x.contiguous(memory_format=torch.channels_last), weight, bias, dilation)
    else:
        y = _convolve(x.contiguous(), weight, bias, dilation)
    return y.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def grad_input(grad: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Gradient of `forward` with respect to ``x``, in the memory format of ``grad``.

    Args:
        grad: Gradient of the output, of shape (B, C, H, W).
        weight: The forward call's kernels, of shape (C, 1, KH, KW).
        dilation: The forward call's dilation.

    Returns:
        Gradient of shape (B, C, H, W).
    """
    return forward(grad, weight.flip(2, 3), dilation)


def grad_weight(x: Tensor, grad: Tensor, kernel_size: tuple[int, int], dilation: int) -> Tensor:
    """Gradient of `forward` with respect to ``weight``.

    Args:
        x: The forward call's input, of shape (B, C, H, W).
        grad: Gradient of the output, of shape (B, C, H, W).
        kernel_size: (KH, KW) of the forward call's kernels.
        dilation: The forward call's dilation.

    Returns:
        Gradient of shape (C, 1, KH, KW).
    """
    batch, channels, height, width = x.shape
    if batch == 0:
        return x.new_zeros((channels, 1, *kernel_size))
    if x.dtype in (torch.bfloat16, torch.float16):
        # The sum over the batch must not round twice.
        return grad_weight(x.float(), grad.float(), kernel_size, dilation).to(x.dtype)
    reach = _reach(x, kernel_size, dilation)
    # The taps are `dilation` apart; take the largest stride that divides it and drop what lies between.
    stride = max(s for s in range(1, MAX_STRIDE + 1) if dilation % s == 0)
    skip = dilation // stride
    y = _convolve_planes(
        x.reshape(1, batch * channels, height, width),
        grad.reshape(batch * channels, 1, height, width),
        [(size - 1) // 2 * dilation for size in reach],
        stride,
    )
    taps = y[:, :, ::skip, ::skip].reshape(batch, channels, 1, *reach).sum(0)
    margin_h, margin_w = ((size - near) // 2 for size, near in zip(kernel_size, reach, strict=True))
    return F.pad(taps, (margin_w, margin_w, margin_h, margin_h)) if margin_h or margin_w else taps


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _reach(x: Tensor, kernel_size: tuple[int, int], dilation: int) -> tuple[int, int]:
    """Size of the centre of the kernel whose taps can touch the map."""
    height, width = ((extent - 1) // dilation * 2 + 1 for extent in x.shape[2:])
    return min(kernel_size[0], height), min(kernel_size[1], width)


def _centre(weight: Tensor, kernel_size: tuple[int, int]) -> Tensor:
    top, left = ((full - near) // 2 for full, near in zip(weight.shape[2:], kernel_size, strict=True))
    return weight[:, :, top : top + kernel_size[0], left : left + kernel_size[1]]


def _is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.shape[1] > 1


def _fast_in_channels_last(kernel_size: tuple[int, int], channels_last: bool) -> bool:
    size = max(kernel_size)
    return size > 13 or (channels_last and size < 11)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    padding = [(size - 1) // 2 * dilation for size in weight.shape[2:]]
    return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=weight.shape[0])


def _convolve_planes(x: Tensor, weight: Tensor, padding: list[int], stride: int) -> Tensor:
    excess_h, excess_w = (max(0, p - MAX_PADDING) for p in padding)
    if excess_h or excess_w:
        x = F.pad(x, (excess_w, excess_w, excess_h, excess_h))
    inner = (padding[0] - excess_h, padding[1] - excess_w)
    return F.conv2d(x, weight, stride=stride, padding=inner, groups=weight.shape[0])
