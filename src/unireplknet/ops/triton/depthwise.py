"""The single depthwise convolution on Triton: what the registered operators of `library.py` run."""

import torch
from torch import Tensor

from unireplknet.ops.triton import cache, conv
from unireplknet.ops.triton.geometry import Cut, Kernel
from unireplknet.ops.triton.launch import Running
from unireplknet.ops.triton.tiles import are_shipped


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    dilation: int = 1,
    flip: bool = False,
    keep: bool = True,
) -> Tensor:
    """Depthwise convolution, stride 1, "same" padding.

    Args:
        x: Input of shape (B, C, H, W).
        weight: Kernels of shape (C, 1, KH, KW). They are rounded to the type of ``x``, as autocast does.
        bias: Optional bias of shape (C,).
        dilation: Spacing between kernel taps, in pixels.
        flip: Turn the kernels by 180 degrees.
        keep: Whether the Toeplitz matrices of a constant weight may be kept, see `cache.constant_weights`.

    Returns:
        Output of shape (B, C, H, W), contiguous, of the type of ``x``.
    """
    x = x.contiguous()
    if x.numel() == 0:
        return torch.empty_like(x)
    tiles, cuts = conv.plan("conv", x, (Kernel(weight.shape[2], weight.shape[3], dilation),))
    matrices = toeplitz(weight, cuts, x, flip, keep)
    bias = None if bias is None else bias.contiguous()
    with Running("conv", x, x, bias, cuts, conv.setting(x), replay=are_shipped()):
        return conv.convolve(x, matrices, cuts, tiles, bias=bias)


def toeplitz(weight: Tensor, cuts: Cut, x: Tensor, flip: bool, keep: bool) -> Tensor:
    """Toeplitz matrices of one kernel.

    Args:
        weight: Kernels of shape (C, 1, KH, KW).
        cuts: The cut.
        x: Map of shape (B, C, H, W).
        flip: Turn the kernels by 180 degrees.
        keep: Whether they may be kept for the next call.
    """

    def make() -> Tensor:
        taps = weight.contiguous()
        with Running("toeplitz", x, x, taps, cuts, flip, replay=are_shipped()):
            return conv.toeplitz(taps, None, cuts, x, merged=False, branches=1, flip=flip)

    return cache.keep(weight, (cuts, flip, x.dtype), make) if keep else make()


def grad_weight(
    x: Tensor, grad: Tensor, kernel_size: tuple[int, int], dilation: int = 1, dtype: torch.dtype | None = None
) -> Tensor:
    """Gradient with respect to the kernels; equal inputs give bit-equal results.

    Args:
        x: Input of shape (B, C, H, W).
        grad: Gradient of the output, of the shape and type of ``x``.
        kernel_size: (KH, KW).
        dilation: Spacing between kernel taps, in pixels.
        dtype: Type of the result; that of ``x`` by default.

    Returns:
        Gradient of shape (C, 1, KH, KW).
    """
    x, grad = x.contiguous(), grad.contiguous()
    shape, dtype = (x.shape[1], 1, *kernel_size), dtype or x.dtype
    if x.numel() == 0:
        return x.new_zeros(shape, dtype=dtype)
    kernels = (Kernel(*kernel_size, dilation),)
    with Running("correlate", x, x, grad, kernels, dtype, conv.setting(x), replay=are_shipped()):
        return conv.correlate(x, grad, kernels, None, None, dtype).view(shape)
