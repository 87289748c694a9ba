"""The definition: PyTorch's own grouped convolution, on whatever device the tensors are."""

import torch.nn.functional as F
from torch import Tensor


def can_use(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    """Return None: PyTorch's convolution takes every valid call."""
    return None


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Stride-1, "same" depthwise convolution; see `unireplknet.ops.depthwise_conv2d`."""
    padding = [(size - 1) // 2 * dilation for size in weight.shape[2:]]
    return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=weight.shape[0])
