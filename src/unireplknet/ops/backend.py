"""What a backend of the depthwise convolution offers, and which backend serves a call."""

import importlib.metadata
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import _get_current_function_mode_stack, has_torch_function_unary
from torch.utils._device import DeviceContext

from unireplknet import registry
from unireplknet.ops import cpu, reference, triton


class Backend(Protocol):
    """The interface that every backend is checked against; nothing else is asked of one.

    Arguments have been checked: ``x`` is (B, C, H, W) with at least one pixel and maybe no image, ``weight`` is
    (C, 1, KH, KW) of odd sizes and of the dtype of ``x``.
    """

    def can_use(self, x: Tensor, weight: Tensor, dilation: int) -> str | None:
        """Return None if the backend can convolve these tensors, else a sentence that says why not."""

    def depthwise_conv2d(self, x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
        """Convolve, differentiable to any order, in the memory format of ``x``."""

    def grad_weight(self, x: Tensor, grad: Tensor, kernel_size: tuple[int, int], dilation: int) -> Tensor:
        """Return the gradient (C, 1, KH, KW) of the convolution with respect to its weight; not differentiable."""


BACKENDS: dict[str, Backend] = {"reference": reference, "cpu": cpu, "triton": triton}
"""The backends by name; those of other packages join when they are first asked for."""
FUSED = "fused blocks"
"""What `backend_report` calls the Triton kernels that run a whole block."""

_log = logging.getLogger(__name__)
_reported: set[str] = set()
_environment: str | None = os.environ.get("UNIREPLKNET_BACKEND") or None
_forced: ContextVar[str | None] = ContextVar("forced", default=None)
_HALF = (torch.bfloat16, torch.float16)
_FUSED_DTYPES = (*_HALF, torch.float32, torch.float64)


def forced() -> str | None:
    """Return the name of the backend that `use_backend` or the environment asks for, or None."""
    return _forced.get() or _environment


if tuple(map(int, importlib.metadata.version("torch").split(".")[:2])) < (2, 14):
    # Dynamo cannot trace a context variable there. A compiled function keeps the backend it was compiled with.
    forced._dynamo_marked_constant = True  # type: ignore[attr-defined]


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every `depthwise_conv2d` inside the block on one backend.

    Holds for the current thread or task, and for the backward passes of what was computed inside. The environment
    variable UNIREPLKNET_BACKEND does the same for a whole process.

    Args:
        name: "reference", "cpu" or "triton", or a backend of another package (group ``unireplknet.backends``).

    Raises:
        ValueError: There is no such backend.
    """
    _check_name(name, "name")
    token = _forced.set(name)
    try:
        yield
    finally:
        _forced.reset(token)


def backend_report() -> dict[str, str | None]:
    """Report why a backend cannot run a small convolution here, and why blocks cannot be fused; None where they can."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = {}
    for name, backend in BACKENDS.items():
        x = torch.zeros(1, 1, 3, 3, device="cpu" if name == "cpu" else device)
        report[name] = backend.can_use(x, x, 1)
    return {**report, FUSED: why_not_fused(torch.zeros(1, 1, 3, 3, device=device))}


def is_exporting() -> bool:
    """Whether `torch.export` records this call; `torch.compile` does not count.

    Up to PyTorch 2.11, ``torch.compiler.is_exporting()`` is True under Dynamo in any case.
    """
    return getattr(torch.compiler, "_is_exporting_flag", False)


def is_tracing() -> bool:
    """Whether `torch.jit.trace` or the ONNX exporter built on it records this call."""
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def only_known_calls() -> str | None:
    """Return why calls must be PyTorch's own right now, or None if they need not.

    An exporter, a tracer, a transform of torch.func and forward-mode derivatives see through no operator of ours.
    """
    if is_exporting():
        return "torch.export records PyTorch's own calls"
    if torch._C._are_functorch_transforms_active():
        return "torch.func transforms PyTorch's own calls"
    if forward_ad._current_level >= 0:
        return "forward-mode derivatives are those of PyTorch's own calls"
    if is_tracing():
        return "torch.jit.trace records PyTorch's own calls"
    return None


def why_not_fused(x: Tensor) -> str | None:
    """Return why Triton kernels cannot stand in for modules on a map, or None if they can.

    Args:
        x: The map, of shape (B, C, H, W).
    """
    if _is_intercepted(x):
        return "torch.fx, or a subclass of Tensor, follows the modules"
    name = forced()
    if x.device.type != "cuda" and name != "triton":
        return f"fused blocks run on CUDA and ROCm cards, the input is on {x.device.type}"
    if name not in (None, "triton"):
        return f"the backend {name!r} is forced"
    if x.dim() != 4 or x.dtype not in _FUSED_DTYPES:
        return f"the kernels take maps of floating numbers, (B, C, H, W), the input is {tuple(x.shape)} of {x.dtype}"
    if x.shape[0] == 0:
        return "the batch is empty"
    return only_known_calls() or triton.can_run(x)


def _is_intercepted(x: Tensor) -> bool:
    if not has_torch_function_unary(x) or torch.compiler.is_compiling():
        return has_torch_function_unary(x)
    # A default device (torch.set_default_device) is a mode too, and leaves these calls as they are.
    modes = _get_current_function_mode_stack()
    only_default_device = len(modes) > 0 and all(isinstance(mode, DeviceContext) for mode in modes)
    return not (only_default_device and type(x) in (Tensor, nn.Parameter))


def choose_backend(x: Tensor, weight: Tensor, dilation: int) -> str:
    """Return the name of the backend that serves a call.

    Args:
        x: Input of shape (B, C, H, W).
        weight: Kernels of shape (C, 1, KH, KW).
        dilation: Spacing between kernel taps, in pixels.

    Raises:
        RuntimeError: The forced backend cannot run this call.
    """
    if only_known_calls() is not None:
        return "reference"
    name = forced()
    if name is not None:
        _check_name(name, "UNIREPLKNET_BACKEND")
        reason = BACKENDS[name].can_use(x, weight, dilation)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} was asked for but cannot run: {reason}")
        return name
    if x.device.type == "cpu":
        return "cpu"
    if x.device.type == "cuda" and not _suits_cudnn(x, weight, dilation):
        reason = triton.can_use(x, weight, dilation)
        if reason is None:
            return "triton"
        _report_once(f"depthwise_conv2d runs PyTorch's own convolution: {reason}")
    return "reference"


def _suits_cudnn(x: Tensor, weight: Tensor, dilation: int) -> bool:
    """Whether PyTorch's own kernel is the faster one on a card: 3x3 in channels_last or in float32.

    In channels_last and half precision it takes 1.6 times as long as reading and writing the map once (H100), while
    the Triton kernels would need two changes of layout, each as long as that. In float32 it takes three quarters of
    their time (H200).
    """
    small = weight.shape[2] <= 3 and weight.shape[3] <= 3 and dilation == 1
    return small and (x.dtype == torch.float32 or (x.dtype in _HALF and x.stride(1) == 1))


def _report_once(message: str) -> None:
    if message not in _reported and not torch.compiler.is_compiling():
        _reported.add(message)
        _log.info(message)


def _check_name(name: str, source: str) -> None:
    if name in BACKENDS:
        return
    if name in registry.BACKENDS:
        BACKENDS[name] = registry.BACKENDS[name]
    else:
        raise ValueError(f"{source} is {name!r}, expected one of {', '.join(BACKENDS)}")
