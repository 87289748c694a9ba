"""Launchers of the Triton kernels, and the operators they are registered as.

The launchers (``forward``, ``grad_input``, ``grad_weight``) are plain functions on tensors. The registered
operators wrap them for ``torch.compile``; autograd sits outside, in ``__init__.py``.
"""

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unireplknet.ops.triton import cache, kernels
from unireplknet.ops.triton.geometry import Geometry
from unireplknet.ops.triton.tiles import choose, geometry

# float32 on tensor cores: each factor is split in two tf32 halves and three of their products are kept, which
# has about float32 accuracy. AMD's compiler has no such mode; there float32 runs as it is.
_FLOAT32_PRECISION = "ieee" if torch.version.hip else "tf32x3"


class Launch(NamedTuple):
    """One kernel launch: everything that a card, the interpreter or the ahead-of-time compiler needs."""

    kernel: Any
    grid: tuple[int, ...]
    args: dict[str, Any]
    num_warps: int

    def run(self, device: torch.device) -> None:
        """Launch on ``device``, whichever device is current."""
        with torch.cuda.device(device if device.type == "cuda" else -1):
            self.kernel[self.grid](**self.args, num_warps=self.num_warps)


def _rows(x: Tensor, geometry: Geometry) -> int:
    return x.shape[0] * geometry.groups * geometry.segments


def conv_launches(
    x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, dilation: int, flip: bool
) -> tuple[Launch, Launch]:
    """The launches that convolve ``x`` into ``y``: spread the kernels, then multiply."""
    kernel_size = (weight.shape[2], weight.shape[3])
    tiles = choose("conv", x, kernel_size, dilation)
    channels = x.shape[1]
    cuts = geometry(x, kernel_size, dilation, tiles)
    n_rows = _rows(x, cuts)
    toeplitz = x.new_empty(channels, cuts.steps, cuts.block_k, cuts.block_n)
    spread = {"weight_ptr": weight, "toeplitz_ptr": toeplitz, "flip": flip, "G": cuts}
    multiply = {
        "x_ptr": x,
        "toeplitz_ptr": toeplitz,
        "bias_ptr": toeplitz if bias is None else bias,
        "y_ptr": y,
        "n_rows": n_rows,
        "channels": channels,
        "n_elements": x.numel(),
        "has_bias": bias is not None,
        "precision": _FLOAT32_PRECISION,
        "block_m": tiles.block_m,
        "stages": tiles.stages,
        "G": cuts,
    }
    return (
        Launch(kernels.toeplitz_kernel, (channels * cuts.steps,), spread, 4),
        Launch(kernels.conv_kernel, (channels * triton.cdiv(n_rows, tiles.block_m),), multiply, tiles.num_warps),
    )


def grad_weight_launches(x: Tensor, grad: Tensor, result: Tensor, dilation: int) -> tuple[Launch, Launch]:
    """The launches that compute the weight gradient into ``result``: correlate by splits, then fold."""
    kernel_size = (result.shape[2], result.shape[3])
    tiles = choose("correlate", x, kernel_size, dilation)
    channels = x.shape[1]
    cuts = geometry(x, kernel_size, dilation, tiles)
    n_rows = _rows(x, cuts)
    row_tiles = triton.cdiv(n_rows, tiles.block_m)
    splits = min(row_tiles, triton.cdiv(tiles.programs, channels * cuts.steps))
    partial = x.new_empty(
        (splits, channels, cuts.steps, cuts.block_k, cuts.block_n),
        dtype=torch.float64 if x.dtype == torch.float64 else torch.float32,
    )
    correlate = {
        "x_ptr": x,
        "grad_ptr": grad,
        "partial_ptr": partial,
        "n_rows": n_rows,
        "channels": channels,
        "n_elements": x.numel(),
        "tiles_per_split": triton.cdiv(row_tiles, splits),
        "precision": _FLOAT32_PRECISION,
        "block_m": tiles.block_m,
        "stages": tiles.stages,
        "G": cuts,
    }
    fold = {
        "partial_ptr": partial,
        "grad_weight_ptr": result,
        "channels": channels,
        "splits": splits,
        "block_x": triton.next_power_of_2(cuts.kernel_width),
        "G": cuts,
    }
    return (
        Launch(kernels.correlate_kernel, (channels * cuts.steps, splits), correlate, tiles.num_warps),
        Launch(kernels.fold_kernel, (channels * cuts.kernel_height,), fold, 4),
    )


def forward(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1, flip: bool = False) -> Tensor:
    """Depthwise convolution, stride 1, "same" padding.

    Args:
        x: Input of shape (B, C, H, W).
        weight: Kernels of shape (C, 1, KH, KW). They are rounded to the type of ``x``, as autocast does.
        bias: Optional bias of shape (C,).
        dilation: Spacing between kernel taps, in pixels.
        flip: Turn the kernels by 180 degrees.

    Returns:
        Output of shape (B, C, H, W), contiguous, of the type of ``x``.
    """
    x = x.contiguous()
    y = torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.numel() == 0:
        return y
    bias = None if bias is None else bias.contiguous()
    spread, multiply = conv_launches(x, weight.contiguous(), bias, y, dilation, flip)

    def toeplitz() -> Tensor:
        spread.run(x.device)
        return spread.args["toeplitz_ptr"]

    multiply.args["toeplitz_ptr"] = cache.keep(weight, (spread.args["G"], flip, x.dtype), toeplitz)
    multiply.run(x.device)
    return y


def grad_input(grad: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Gradient with respect to the input: ``grad`` (B, C, H, W) convolved with the turned kernels."""
    return forward(grad, weight, None, dilation, flip=True)


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
    channels = x.shape[1]
    result = x.new_empty(channels, 1, *kernel_size, dtype=dtype or x.dtype)
    if x.numel() == 0:
        return result.zero_()
    for launch in grad_weight_launches(x, grad, result, dilation):
        launch.run(x.device)
    return result


_NAMESPACE = "unireplknet_triton"
torch.library.define(
    f"{_NAMESPACE}::conv",
    "(Tensor x, Tensor weight, Tensor? bias, int dilation, bool flip) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.define(
    f"{_NAMESPACE}::correlate",
    "(Tensor x, Tensor grad, int[2] kernel_size, int dilation, ScalarType dtype) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
torch.library.impl(f"{_NAMESPACE}::conv", ("cuda", "cpu"), forward)
torch.library.impl(f"{_NAMESPACE}::correlate", ("cuda", "cpu"), grad_weight)


def _fake_conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, flip: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_correlate(x: Tensor, grad: Tensor, kernel_size: list[int], dilation: int, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape[1], 1, *kernel_size, dtype=dtype)


torch.library.register_fake(f"{_NAMESPACE}::conv", _fake_conv)
torch.library.register_fake(f"{_NAMESPACE}::correlate", _fake_correlate)


def _flops(map_shape: torch.Size, kernel_shape: tuple[int, int]) -> int:
    """Two per tap and output pixel: what the mathematics needs, not what the Toeplitz product spends."""
    return 2 * math.prod(map_shape) * math.prod(kernel_shape)


@register_flop_formula(torch.ops.unireplknet_triton.conv)
def _conv_flops(x_shape: torch.Size, weight_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    return _flops(x_shape, (weight_shape[2], weight_shape[3]))


@register_flop_formula(torch.ops.unireplknet_triton.correlate)
def _correlate_flops(
    x_shape: torch.Size, grad_shape: torch.Size, kernel_size: tuple[int, int], *args: Any, **kwargs: Any
) -> int:
    return _flops(x_shape, kernel_size)
