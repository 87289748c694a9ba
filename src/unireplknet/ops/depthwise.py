"""The public depthwise convolution: checks its arguments, picks a backend, and can say why."""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from unireplknet.ops import cpu, reference

BACKENDS = ("reference", "cpu", "triton")
_HALF = (torch.bfloat16, torch.float16)
_FLOATS = (torch.float32, torch.float64, *_HALF)

_log = logging.getLogger(__name__)
_has_triton = importlib.util.find_spec("triton") is not None
_said: set[str] = set()
_forced: str | None = os.environ.get("UNIREPLKNET_BACKEND") or None


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
    return _backend(x, weight, dilation).depthwise_conv2d(x, weight, bias, dilation)


def depthwise_grad_weight(x: Tensor, grad: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    """Gradient of `depthwise_conv2d` with respect to its weight, for functions with a backward pass of their own.

    Args:
        x: The convolution's input, of shape (B, C, H, W).
        grad: Gradient of its output, same shape and dtype.
        weight: Its kernels, of shape (C, 1, KH, KW).
        dilation: Its dilation.

    Returns:
        Gradient in the shape and dtype of ``weight``.
    """
    kernel_size = (weight.shape[2], weight.shape[3])
    return _backend(x, weight, dilation).grad_weight(x, grad, kernel_size, dilation).to(weight.dtype)


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every `depthwise_conv2d` inside the block on one backend, in all threads.

    The environment variable UNIREPLKNET_BACKEND does the same for a whole process.

    Args:
        name: "reference", "cpu" or "triton".

    Raises:
        ValueError: There is no such backend.
    """
    global _forced
    _check_name(name, "name")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def backend_report() -> dict[str, str | None]:
    """Say for every backend why it cannot run a small convolution here; None where it can."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = {}
    for name in BACKENDS:
        x = torch.zeros(1, 1, 3, 3, device="cpu" if name == "cpu" else device)
        report[name] = _load(name, x, x, 1)[1]
    return report


def _backend(x: Tensor, weight: Tensor, dilation: int) -> ModuleType:
    # Exported graphs hold aten's convolution, which every runtime knows; torch.func sees only through
    # PyTorch's own calls.
    if torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active():
        return reference
    if _forced is not None:
        _check_name(_forced, "UNIREPLKNET_BACKEND")
        module, reason = _load(_forced, x, weight, dilation)
        if module is None:
            raise RuntimeError(f"backend {_forced!r} was asked for but cannot run: {reason}")
        return module
    if x.device.type == "cpu":
        return cpu
    if x.device.type == "cuda" and not _suits_cudnn(x, weight, dilation):
        module, reason = _load("triton", x, weight, dilation)
        if module is not None:
            return module
        _say_once(f"depthwise_conv2d runs PyTorch's own convolution: {reason}")
    return reference


def _suits_cudnn(x: Tensor, weight: Tensor, dilation: int) -> bool:
    """Whether PyTorch's own kernel is the faster one on a card: small kernels in channels_last, half precision.

    At 3x3 it takes 1.6 times as long as reading and writing the map once (measured on an H100 in bfloat16); the
    Triton kernels would need two changes of layout, each as long as that. float32 has not been measured.
    """
    small = weight.shape[2] <= 3 and weight.shape[3] <= 3 and dilation == 1
    return small and x.dtype in _HALF and x.stride(1) == 1


def _load(name: str, x: Tensor, weight: Tensor, dilation: int) -> tuple[ModuleType | None, str | None]:
    """Return the backend if it can run the call, or else the reason why not."""
    if name == "triton":
        if not _has_triton:
            return None, "triton is not installed (PyTorch's CUDA and ROCm wheels for Linux bring it)"
        try:
            module = importlib.import_module("unireplknet.ops.triton")
        except ImportError as error:
            return None, f"the triton backend does not import: {error}"
    else:
        module = cpu if name == "cpu" else reference
    reason = module.can_use(x, weight, dilation)
    return (module, None) if reason is None else (None, reason)


def _say_once(message: str) -> None:
    if message not in _said and not torch.compiler.is_compiling():
        _said.add(message)
        _log.info(message)


def _check_name(name: str, source: str) -> None:
    if name not in BACKENDS:
        raise ValueError(f"{source} is {name!r}, expected one of {', '.join(BACKENDS)}")


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
    dtype = x.dtype
    # The one question that is cheap on every device comes first.
    autocast = torch._C._is_any_autocast_enabled() and dtype != torch.float64 and _autocasts(x.device.type)
    if autocast:
        dtype = torch.get_autocast_dtype(x.device.type)
    if x.dtype == weight.dtype == dtype and (bias is None or bias.dtype == dtype):
        return x, weight, bias
    castable = _FLOATS if autocast else (torch.float32, dtype) if dtype in _HALF else (dtype,)

    def cast(name: str, operand: Tensor) -> Tensor:
        if operand.dtype == dtype:  # spares exported graphs a cast that does nothing
            return operand
        if operand.dtype not in castable:
            raise TypeError(f"{name} has dtype {operand.dtype}, expected {dtype} like x")
        return operand.to(dtype)

    return cast("x", x), cast("weight", weight), None if bias is None else cast("bias", bias)


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
