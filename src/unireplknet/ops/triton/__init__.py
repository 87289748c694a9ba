"""Triton backend of the depthwise convolution and of the block, for CUDA and ROCm cards.

The convolutions work in NCHW; a channels_last input is converted, and its output converted back. Triton is
imported when an operator first runs, not before.
"""

import importlib.util
import os
import shutil

import torch
from torch import Tensor

from unireplknet.ops.triton.autograd import Conv

_INSTALLED = importlib.util.find_spec("triton") is not None
# Triton reads this when the kernels are imported. Interpreted kernels run on CPU tensors, for tests.
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def can_use(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    """Whether the kernels can convolve these tensors.

    Tensors on the meta device count as if they were on a card: launches and bytes can be counted there.

    Args:
        x: Input of shape (B, C, H, W).
        weight: Kernels of shape (C, 1, KH, KW).
        dilation: Spacing between kernel taps, in pixels.

    Returns:
        None if they can, else a sentence that says why not.
    """
    if x.dtype not in _DTYPES or weight.dtype not in _DTYPES:
        return f"the Triton kernels take float16, bfloat16, float32 or float64, got {x.dtype} and {weight.dtype}"
    return can_run(x)


def can_run(x: Tensor) -> str | None:
    """Whether Triton kernels can run where a tensor is.

    Args:
        x: A tensor of any floating dtype.

    Returns:
        None if they can, else a sentence that says why not.
    """
    if not _INSTALLED:
        return "Triton is not installed; PyTorch for CUDA and ROCm brings it on Linux, or: pip install triton"
    if x.device.type == "cpu" and _INTERPRETED:
        # Its dot multiplies the bit patterns of bfloat16 (Triton 3.8).
        return "the Triton interpreter cannot multiply bfloat16" if x.dtype == torch.bfloat16 else None
    if x.device.type == "meta":
        return None
    if x.device.type != "cuda":
        return f"the Triton kernels run on CUDA and ROCm cards, got a tensor on {x.device}"
    return _card_reason(x.device.index)


_card_reasons: dict[int | None, str | None] = {}


def _card_reason(index: int | None) -> str | None:
    """Why the kernels cannot run on a card, whatever the tensors."""
    if index not in _card_reasons:
        _card_reasons[index] = _examine(index)
    return _card_reasons[index]


# Compilers ask for the answer, not for the way to it.
_card_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _examine(index: int | None) -> str | None:
    if torch.version.hip is None and torch.cuda.get_device_capability(index)[0] < 8:
        return "the Triton kernels need compute capability 8.0 (Ampere) or newer"
    if os.name == "nt" or c_compiler() is not None:
        return None
    return "Triton needs a C compiler at run time and finds none: install gcc or clang, or set CC"


def c_compiler() -> str | None:
    """Return the C compiler that Triton takes on Linux, or None if it finds none."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """Depthwise convolution with stride 1 and "same" zero padding, differentiable to any order.

    float32 follows PyTorch's setting for convolutions: one tf32 product where ``torch.backends.cudnn`` allows it (the
    default), otherwise three that keep about float32 accuracy; plain float32 on AMD. float64 accumulates in float64,
    half precision in float32. Kernels are rounded to the type of ``x``, as autocast does; their gradient comes in
    their own type. A NaN or infinity spreads a few pixels further than the kernel reaches, over the whole window it
    is read in.

    Args:
        x: Input of shape (B, C, H, W), contiguous or channels_last.
        weight: Kernels of shape (C, 1, KH, KW), KH and KW odd, of any floating type.
        bias: Optional bias of shape (C,).
        dilation: Spacing between kernel taps, in pixels.

    Returns:
        Output of shape (B, C, H, W) and the type of ``x``, in its memory format.
    """
    y = Conv.apply(x, weight, bias, dilation, False)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        y = y.contiguous(memory_format=torch.channels_last)
    return y


def grad_weight(x: Tensor, grad: Tensor, kernel_size: tuple[int, int], dilation: int) -> Tensor:
    """Gradient of the convolution with respect to its kernels, of shape (C, 1, KH, KW)."""
    return torch.ops.unireplknet.correlate(x, grad, kernel_size, dilation, x.dtype)
