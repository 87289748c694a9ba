"""Triton backend of the depthwise convolution, for CUDA and ROCm cards.

The kernels work in NCHW; a channels_last input is converted, and its output converted back. Triton is
imported on the first use, not before.
"""

import importlib.util
import os

import torch
from torch import Tensor

_INSTALLED = importlib.util.find_spec("triton") is not None
# Triton reads this when the kernels are imported. Interpreted kernels run on CPU tensors, for tests.
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def can_use(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    """Whether the kernels can convolve these tensors.

    Args:
        x: Input of shape (B, C, H, W).
        weight: Kernels of shape (C, 1, KH, KW).
        dilation: Spacing between kernel taps, in pixels.

    Returns:
        None if they can, else a sentence that says why not.
    """
    if not _INSTALLED:
        return "Triton is not installed; PyTorch for CUDA and ROCm brings it on Linux, or: pip install triton"
    if x.dtype not in _DTYPES or weight.dtype not in _DTYPES:
        return f"the Triton kernels take float16, bfloat16, float32 or float64, got {x.dtype} and {weight.dtype}"
    if x.device.type == "cpu" and _INTERPRETED:
        # Its dot multiplies the bit patterns of bfloat16 (Triton 3.8).
        return "the Triton interpreter cannot multiply bfloat16" if x.dtype == torch.bfloat16 else None
    if x.device.type != "cuda":
        return f"the Triton kernels run on CUDA and ROCm cards, got a tensor on {x.device.type}"
    if torch.version.hip is None and torch.cuda.get_device_properties(x.device).major < 8:
        return "the Triton kernels need compute capability 8.0 (Ampere) or newer"
    return None


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """Depthwise convolution with stride 1 and "same" zero padding, differentiable to any order.

    float32 keeps about float32 accuracy (three tf32 products for one on NVIDIA tensor cores, plain float32 on
    AMD), float64 accumulates in float64, half precision in float32. Kernels are rounded to the type of ``x``,
    as autocast does; their gradient comes in their own type. A NaN or infinity spreads a few pixels further
    than the kernel reaches, over the whole window it is read in.

    Args:
        x: Input of shape (B, C, H, W), contiguous or channels_last.
        weight: Kernels of shape (C, 1, KH, KW), KH and KW odd, of any floating type.
        bias: Optional bias of shape (C,).
        dilation: Spacing between kernel taps, in pixels.

    Returns:
        Output of shape (B, C, H, W) and the type of ``x``, in its memory format.
    """
    from unireplknet.ops.triton.autograd import Conv

    y = Conv.apply(x, weight, bias, dilation, False)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        y = y.contiguous(memory_format=torch.channels_last)
    return y
