"""The public depthwise convolution."""

import torch.nn.functional as F
from torch import Tensor


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """Depthwise convolution with stride 1 and "same" zero padding.

    Args:
        x: Input of shape (B, C, H, W), contiguous or channels_last.
        weight: Kernels of shape (C, 1, KH, KW), KH and KW odd.
        bias: Optional bias of shape (C,).
        dilation: Spacing between kernel taps, in pixels.

    Returns:
        Output of shape (B, C, H, W) in the memory format of ``x``.
    """
    pad = [(k - 1) // 2 * dilation for k in weight.shape[2:]]
    return F.conv2d(x, weight, bias, padding=pad, dilation=dilation, groups=weight.shape[0])
