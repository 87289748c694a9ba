"""The public depthwise convolution: checks its arguments and hands them to a backend."""

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from unireplknet.ops.backend import BACKENDS, choose_backend
from unireplknet.ops.precision import compute_dtype

_HALF = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, torch.float64, *_HALF)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """Depthwise convolution with stride 1 and "same" zero padding (UniRepLKNet, section 3.1).

    Equal to ``F.conv2d(x, weight, bias, padding=(K - 1) // 2 * dilation, dilation=dilation, groups=C)``,
    forward, backward and double backward; the fastest usable backend runs it.

    Args:
        x: Input of shape (B, C, H, W), contiguous or channels_last; B may be 0.
        weight: Kernels of shape (C, 1, KH, KW), KH and KW odd; float32 is accepted under a half-precision
            ``x``.
        bias: Optional bias of shape (C,).
        dilation: Spacing between kernel taps, in pixels.

    Returns:
        Output of shape (B, C, H, W) in the dtype (autocast's, if that is on) and memory format of ``x``.

    Raises:
        TypeError: An argument has the wrong type or dtype.
        ValueError: Shapes or devices do not fit.
        RuntimeError: The forced backend cannot run this call; the message says why.
    """
    # Makes the function a leaf of torch.fx, and of everything else that works by __torch_function__.
    if has_torch_function((x, weight, bias)):
        return handle_torch_function(depthwise_conv2d, (x, weight, bias), x, weight, bias, dilation)
    _check(x, weight, bias, dilation)
    x, weight, bias = _in_one_dtype(x, weight, bias)
    return BACKENDS[choose_backend(x, weight, dilation)].depthwise_conv2d(x, weight, bias, dilation)


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> None:
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        if not isinstance(value, Tensor) and (value is not None or name != "bias"):
            raise TypeError(f"{name} is a {type(value).__name__}, expected a Tensor")
    if x.dim() != 4:
        raise ValueError(f"x has {x.dim()} dimensions, expected 4: (B, C, H, W)")
    if weight.dim() != 4:
        raise ValueError(f"weight has {weight.dim()} dimensions, expected 4: (C, 1, KH, KW)")
    _, channels, rows, columns = x.shape
    if rows == 0 or columns == 0:
        raise ValueError(f"x has a map of {rows}x{columns}, expected at least 1x1")
    groups, per_group, height, width = weight.shape
    if groups != channels or per_group != 1:
        raise ValueError(f"weight has shape {tuple(weight.shape)}, expected ({channels}, 1, KH, KW) like x")
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(f"weight has kernels of {height}x{width}, expected odd sizes")
    if weight.device != x.device:
        raise ValueError(f"weight is on {weight.device}, expected {x.device} like x")
    if x.dtype not in _FLOATS:
        raise TypeError(f"x has dtype {x.dtype}, expected one of {', '.join(map(str, _FLOATS))}")
    if bias is not None:
        if bias.shape != (channels,):
            raise ValueError(f"bias has shape {tuple(bias.shape)}, expected ({channels},) like x")
        if bias.device != x.device:
            raise ValueError(f"bias is on {bias.device}, expected {x.device} like x")
    if not isinstance(dilation, int):
        raise TypeError(f"dilation is {dilation!r}, expected an int")
    if dilation < 1:
        raise ValueError(f"dilation is {dilation}, expected at least 1")


def _in_one_dtype(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Cast as autocast would, and float32 parameters to a half-precision x."""
    dtype = compute_dtype(x)
    if x.dtype == weight.dtype == dtype and (bias is None or bias.dtype == dtype):
        return x, weight, bias
    autocast = torch._C._is_any_autocast_enabled() and dtype != torch.float64
    castable = _FLOATS if autocast else (torch.float32, dtype) if dtype in _HALF else (dtype,)

    def cast(name: str, operand: Tensor) -> Tensor:
        if operand.dtype == dtype:  # spares exported graphs a cast that does nothing
            return operand
        if operand.dtype not in castable:
            raise TypeError(f"{name} has dtype {operand.dtype}, expected {dtype} like x")
        return operand.to(dtype)

    return cast("x", x), cast("weight", weight), None if bias is None else cast("bias", bias)
