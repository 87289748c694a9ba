"""A 3x3 convolution, channel LayerNorm and GELU, as stem and downsampling have them, in few passes on a card."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from unireplknet.nn.layers import is_untouched
from unireplknet.ops.backend import why_not_fused
from unireplknet.ops.precision import compute_dtype, without_autocast

# Kernels for more channels than these are left to PyTorch: ours reads the map once for each block of them.
_MOST_CHANNELS_IN, _MOST_CHANNELS_OUT = 32, 128


def conv_norm(conv: nn.Conv2d, norm: nn.Module, act: nn.Module | None, x: Tensor, channels_last: bool) -> Tensor:
    """Run a convolution, a channel LayerNorm and an activation, in few passes where the kernels allow it.

    Args:
        conv: A 3x3 convolution with padding 1.
        norm: The norm.
        act: The activation, or None.
        x: Map of shape (B, C', H, W).
        channels_last: Memory format of the result where fused; otherwise it is PyTorch's choice.

    Returns:
        Map of shape (B, C, H', W').
    """
    if can_fuse_conv_norm(conv, norm, act, x) is not None:
        y = norm(conv(x))
        return y if act is None else act(y)
    norm = cast(LayerNorm2d, norm)
    x = x.to(compute_dtype(x))
    parameters = conv.weight, conv.bias, norm.weight, norm.bias
    settings = conv.stride[0], norm.eps, act is not None, channels_last, torch.is_grad_enabled()
    with without_autocast(x):
        return _ConvNorm.apply(x, *parameters, *settings)


def can_fuse_conv_norm(conv: nn.Module, norm: nn.Module, act: nn.Module | None, x: Tensor) -> str | None:
    """Whether the kernels can stand in for a convolution, a channel LayerNorm and an activation.

    Args:
        conv: The convolution.
        norm: The norm.
        act: The activation, or None.
        x: Input of shape (B, C', H, W).

    Returns:
        None if they can, else a sentence that says why not.
    """
    if not is_untouched(conv, nn.Conv2d) or conv.bias is None or not _is_dense_3x3(cast(nn.Conv2d, conv)):
        return "the convolution has a hook, was replaced, or is not a dense 3x3 one with bias and padding 1"
    if not is_untouched(norm, LayerNorm2d) or norm.weight is None or norm.bias is None:
        return "the norm has a hook, was replaced or has no weight"
    if act is not None and (not is_untouched(act, nn.GELU) or act.approximate != "none"):
        return "the activation has a hook, was replaced or is not the exact GELU"
    return why_not_fused(x)


def _is_dense_3x3(conv: nn.Conv2d) -> bool:
    found = conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.padding_mode
    return found == ((3, 3), (1, 1), (1, 1), 1, "zeros") and conv.stride[0] == conv.stride[1]


def is_one_pass(weight: Tensor) -> bool:
    """Whether convolution and norm run in one kernel, from the convolution's weight (C, C', 3, 3)."""
    return weight.shape[0] <= _MOST_CHANNELS_OUT and weight.shape[1] <= _MOST_CHANNELS_IN


class _ConvNorm(torch.autograd.Function):
    """Convolution, channel LayerNorm and GELU. Saves its input and the convolution's output without bias."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        stride: int,
        eps: float,
        gelu: bool,
        channels_last: bool,
        keep: bool,
    ) -> Tensor:
        norm = bias, norm_weight, norm_bias, eps, gelu
        if is_one_pass(weight):
            z, y = torch.ops.unireplknet.conv_norm(x, weight, stride, *norm, channels_last, keep)
        else:
            x = x.contiguous(memory_format=torch.channels_last)
            y = F.conv2d(x, weight.to(x.dtype), None, stride, padding=1)
            z = torch.ops.unireplknet.layer_norm(y, *norm, channels_last)
        ctx.save_for_backward(x, y, weight, bias, norm_weight, norm_bias)
        ctx.stride, ctx.eps, ctx.gelu = stride, eps, gelu
        return z

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, norm_weight, norm_bias = ctx.saved_tensors
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return _differentiable_backward(ctx, x, weight, bias, norm_weight, norm_bias, grad)
        grad_y, grad_norm = torch.ops.unireplknet.layer_norm_backward(
            grad, y, bias, norm_weight, norm_bias, ctx.eps, ctx.gelu
        )
        mask = [*ctx.needs_input_grad[:2], False]
        grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad_y, x, weight.to(x.dtype), None, [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1, mask
        )
        return grad_x, grad_weight, *grad_norm.unbind(), *[None] * 5


def _differentiable_backward(
    ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, grad: Tensor
) -> tuple[Tensor | None, ...]:
    """The same backward pass through PyTorch's own calls, whose derivative PyTorch knows."""
    y = F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), ctx.stride, padding=1)
    z = F.layer_norm(y.permute(0, 2, 3, 1), norm_weight.shape, norm_weight, norm_bias, ctx.eps).permute(0, 3, 1, 2)
    z = F.gelu(z) if ctx.gelu else z
    wanted = [t for t in (x, weight, bias, norm_weight, norm_bias) if t.requires_grad]
    grads = iter(torch.autograd.grad(z, wanted, grad, create_graph=True))
    return *(next(grads) if needed else None for needed in ctx.needs_input_grad[:5]), *[None] * 5
