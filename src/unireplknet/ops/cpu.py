"""Depthwise convolution on CPUs, from the PyTorch calls that oneDNN runs fast.

Three facts shape this file (figures: benchmarks/results/):

* The weight gradient of a grouped convolution is slow in PyTorch (tens of times its forward pass), but it
  is itself a grouped forward convolution: each image plane convolved with its gradient plane, summed over
  the batch. The input gradient is the forward convolution with the flipped kernel.
* oneDNN's blocked kernel (planes in, planes out) needs padding of at most 6 pixels and stride of at most 3;
  outside those limits it silently falls back to a matrix product that is tens of times slower. Its
  channels_last kernel has no such limits, but a kernel 13 wide takes twice the time of one 15 wide.
* A tap further from the centre than the map is wide only ever multiplies padding.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PADDING = 6
MAX_STRIDE = 3
SLOW_WIDTH = 13


def can_use(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    """Say why this backend cannot run the call, or return None."""
    if x.device.type != "cpu":
        return f"the cpu backend needs CPU tensors, x is on {x.device}"
    return None


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Differentiable "same" depthwise convolution; see `unireplknet.ops.depthwise_conv2d`."""
    height, width = weight.shape[2:]
    small = 5 if x.shape[0] == 1 and _is_channels_last(x) else 3
    if height <= small and width <= small and dilation == 1 and x.dtype != torch.float16:
        # oneDNN's own gradients are fast here, and the fewest steps around them decide.
        return F.conv2d(x, weight, bias, padding=(height // 2, width // 2), groups=weight.shape[0])
    if not _needs_gradient(x, weight, bias):
        return forward(x, weight, dilation, bias)
    return _DepthwiseConv2d.apply(x, weight, bias, dilation)


class _DepthwiseConv2d(torch.autograd.Function):
    # The backward pass holds only differentiable calls: double backward comes from autograd. There is no
    # setup_context because it doubles the cost of a call.
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        return forward(x, weight, dilation, bias)

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
    if x.dtype == torch.float16:
        # Without AVX512-FP16, PyTorch's float16 convolution is slow and rounds between its steps.
        bias = None if bias is None else bias.float()
        return forward(x.float(), weight.float(), dilation, bias).half()
    weight = _within_reach(weight, x.shape[2:], dilation)
    padding = [(size - 1) // 2 * dilation for size in weight.shape[2:]]
    layout = torch.channels_last if _is_channels_last(x) else torch.contiguous_format
    if layout == torch.channels_last or max(padding) > MAX_PADDING:
        x = x.contiguous(memory_format=torch.channels_last)
        if weight.shape[3] == SLOW_WIDTH:
            weight = F.pad(weight, (1, 1))
            padding[1] += dilation
    y = F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=weight.shape[0])
    return y.contiguous(memory_format=layout)


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
    reach_h, reach_w = _reach(kernel_size, x.shape[2:], dilation)
    padding_h, padding_w = reach_h // 2 * dilation, reach_w // 2 * dilation
    excess_h, excess_w = max(0, padding_h - MAX_PADDING), max(0, padding_w - MAX_PADDING)
    # The wanted taps are `dilation` apart: take the largest stride that divides it, drop what lies between.
    stride = max(s for s in range(1, MAX_STRIDE + 1) if dilation % s == 0)
    skip = dilation // stride
    if torch.compiler.is_compiling():
        # The layout that PyTorch's shape functions tell for a norm's gradient is not always the one its kernel
        # returns; a reshape traced as a view of the one fails on the other. A copy is laid out as it says.
        x, grad = (t.clone(memory_format=torch.contiguous_format) for t in (x, grad))
    planes = x.reshape(1, batch * channels, height, width)
    taps = F.conv2d(
        F.pad(planes, (excess_w, excess_w, excess_h, excess_h)) if excess_h or excess_w else planes,
        grad.reshape(batch * channels, 1, height, width),
        stride=stride,
        padding=(padding_h - excess_h, padding_w - excess_w),
        groups=batch * channels,
    )[:, :, ::skip, ::skip]
    total = taps.reshape(batch, channels, 1, reach_h, reach_w).sum(0)
    beyond_h, beyond_w = (kernel_size[0] - reach_h) // 2, (kernel_size[1] - reach_w) // 2
    return F.pad(total, (beyond_w, beyond_w, beyond_h, beyond_h)) if beyond_h or beyond_w else total


def _needs_gradient(*tensors: Tensor | None) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _reach(kernel_size: Sequence[int], map_size: Sequence[int], dilation: int) -> tuple[int, int]:
    """Size of the centre of the kernel whose taps can touch the map."""
    height, width = ((extent - 1) // dilation * 2 + 1 for extent in map_size)
    return min(kernel_size[0], height), min(kernel_size[1], width)


def _within_reach(weight: Tensor, map_size: Sequence[int], dilation: int) -> Tensor:
    height, width = weight.shape[2:]
    reach_h, reach_w = _reach((height, width), map_size, dilation)
    if (reach_h, reach_w) == (height, width):
        return weight
    top, left = (height - reach_h) // 2, (width - reach_w) // 2
    return weight[:, :, top : top + reach_h, left : left + reach_w]


def _is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.shape[1] > 1
