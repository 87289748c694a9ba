"""Derivatives of the registered operators.

The convolution is linear in each argument, so its gradients are again convolutions and correlations: two
Functions, each the derivative of the other, are differentiable to any order with the fast kernels throughout.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

import unireplknet.ops.triton.library  # noqa: F401  registers the operators

_Context = Any


class Conv(Function):
    """y = conv(x, weight) + bias, with the kernels turned by 180 degrees if ``flip``."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, flip: bool) -> Tensor:
        """Run the registered operator."""
        # What a compiled network allocates may be a CUDA graph's memory, and cannot be kept.
        keep = not torch.compiler.is_compiling()
        return torch.ops.unireplknet.conv(x, weight, bias, dilation, flip, keep)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple, output: Tensor) -> None:
        """Keep the two factors."""
        x, weight, bias, ctx.dilation, ctx.flip = inputs
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Convolve with the turned kernels; correlate with the input; sum."""
        x, weight = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = Conv.apply(grad, weight, None, ctx.dilation, not ctx.flip)
        if ctx.needs_input_grad[1]:
            kernel_size = (weight.shape[2], weight.shape[3])
            grad_weight = Correlate.apply(x, grad, kernel_size, ctx.dilation, weight.dtype)
            grad_weight = grad_weight.flip(2, 3) if ctx.flip else grad_weight
        if ctx.needs_input_grad[2]:
            # PyTorch's sum has a fixed order, so this is as reproducible as the weight gradient.
            grad_bias = grad.sum((0, 2, 3), dtype=ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None


class Correlate(Function):
    """The weight gradient of ``Conv``: per tap, the sum over images and pixels of shifted x times grad."""

    @staticmethod
    def forward(x: Tensor, grad: Tensor, kernel_size: tuple[int, int], dilation: int, dtype: torch.dtype) -> Tensor:
        """Run the registered operator."""
        return torch.ops.unireplknet.correlate(x, grad, kernel_size, dilation, dtype)

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple, output: Tensor) -> None:
        """Keep the two factors."""
        x, grad, _, ctx.dilation, _ = inputs
        ctx.save_for_backward(x, grad)

    @staticmethod
    def backward(ctx: _Context, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        """Convolve either factor with the cotangent as kernels."""
        x, grad = ctx.saved_tensors
        grad_x = grad_grad = None
        if ctx.needs_input_grad[0]:
            grad_x = Conv.apply(grad, cotangent, None, ctx.dilation, True)
        if ctx.needs_input_grad[1]:
            grad_grad = Conv.apply(x, cotangent, None, ctx.dilation, False)
        return grad_x, grad_grad, None, None, None
