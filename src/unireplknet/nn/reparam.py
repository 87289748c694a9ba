"""The merge, as pure functions on kernels.

Everything that turns a trained network into its merged form is one of these four steps: fold a BatchNorm into
the convolution before it, spread a dilated kernel out into the sparse kernel it equals, centre a small kernel in
a larger one, and add. None of them knows a module tree, a device or a spatial dimension; they keep the dtype
they are given, so a caller that wants the fold in float64 passes float64.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FrozenBatchNorm2d

BatchNorm: TypeAlias = _BatchNorm | FrozenBatchNorm2d
"""What can be folded into the layer before it: a BatchNorm of any kind, synchronized or frozen."""

Branches = Sequence[tuple[int, int]]
"""Parallel branches of a Dilated Reparam Block, each (kernel size k, dilation r)."""

PUBLISHED_BRANCHES: dict[int, Branches] = {
    7: ((5, 1), (3, 2), (3, 3)),
    9: ((5, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}
"""The branches that the authors use, by the size K of the large kernel."""


def fold_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype to merge weights in: float64, or float32 on devices that have no float64 (MPS)."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def default_branches(kernel_size: int) -> Branches:
    """Branches for a large kernel: the published ones, and beyond K = 17 the pattern of K = 17 in proportion.

    Args:
        kernel_size: Size K of the large kernel, odd.

    Returns:
        Pairs (k, r) with (k-1)r+1 <= K; none below K = 7, where a plain depthwise layer is used.

    Source:
        Section 3.2.2 of the journal version (K = 9, 13); the authors' code (7 to 17). Larger K is our own rule.
    """
    if kernel_size < 7:
        return ()
    if kernel_size in PUBLISHED_BRANCHES:
        return PUBLISHED_BRANCHES[kernel_size]
    half = (kernel_size + 1) // 2
    widest = half - 1 + half % 2  # the largest odd k that fits at dilation 2
    return ((5, 1), (widest, 2), *((3, round(kernel_size * r / 17)) for r in (4, 5, 7)))


def check_branches(kernel_size: int, branches: Branches) -> None:
    """Check that every branch fits into the large kernel.

    Args:
        kernel_size: Size K of the large kernel.
        branches: Pairs (k, r).

    Raises:
        ValueError: If K or some k is even, or if some (k-1)r+1 exceeds K.
    """
    if kernel_size < 3 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size is {kernel_size}, expected an odd number of at least 3")
    for i, (k, r) in enumerate(branches):
        if k < 1 or k % 2 == 0 or r < 1:
            raise ValueError(f"branches[{i}] is ({k}, {r}), expected an odd kernel size and a dilation >= 1")
        if (k - 1) * r + 1 > kernel_size:
            raise ValueError(
                f"branches[{i}] is ({k}, {r}) and covers (k-1)r+1 = {(k - 1) * r + 1} pixels, "
                f"more than the kernel size {kernel_size}"
            )


def fold_bn(weight: Tensor, bias: Tensor | None, bn: BatchNorm) -> tuple[Tensor, Tensor]:
    """Fold a BatchNorm with running statistics into the convolution or linear layer before it.

    Args:
        weight: Weight of shape (C_out, ...).
        bias: Bias of shape (C_out,) or None.
        bn: BatchNorm over C_out channels.

    Returns:
        Weight and bias, in the dtype of ``weight``, of the layer that equals layer and norm in eval mode.

    Raises:
        ValueError: If the norm keeps no running statistics.
    """
    if bn.running_mean is None or bn.running_var is None:
        raise ValueError("a BatchNorm without running statistics (track_running_stats=False) cannot be folded")
    scale = torch.rsqrt(bn.running_var.to(weight) + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight.to(weight)
    shift = -bn.running_mean.to(weight) * scale
    if bias is not None:
        shift = shift + bias.to(weight) * scale
    if bn.bias is not None:
        shift = shift + bn.bias.to(weight)
    return weight * scale.reshape(-1, *[1] * (weight.ndim - 1)), shift


def dilate_kernel(weight: Tensor, dilation: int) -> Tensor:
    """Spread a kernel of a dilated convolution into the sparse kernel of an ordinary one.

    Args:
        weight: Kernels of shape (C_out, C_in, k, ...), any number of spatial dimensions.
        dilation: Dilation r of the convolution.

    Returns:
        Kernels of spatial size (k-1)r+1, zero between the taps.

    Source:
        Equation 1 of the paper.
    """
    spatial = weight.shape[2:]
    sparse = weight.new_zeros(*weight.shape[:2], *((k - 1) * dilation + 1 for k in spatial))
    taps = (slice(None), slice(None), *[slice(None, None, dilation)] * len(spatial))
    sparse[taps] = weight
    return sparse


def pad_kernel(weight: Tensor, size: int) -> Tensor:
    """Centre a kernel in a larger one of zeros.

    Args:
        weight: Kernels of shape (C_out, C_in, k, ...), every k odd.
        size: Size of each spatial dimension afterwards, odd.

    Returns:
        Kernels of shape (C_out, C_in, size, ...).

    Raises:
        ValueError: If a kernel is larger than ``size`` or cannot be centred.
    """
    margins = [size - k for k in reversed(weight.shape[2:])]
    if any(m < 0 or m % 2 for m in margins):
        raise ValueError(f"a kernel of {tuple(weight.shape[2:])} cannot be centred in size {size}")
    return F.pad(weight, [m // 2 for m in margins for _ in range(2)])


def merge_branch(weight: Tensor, bn: BatchNorm, dilation: int, size: int) -> tuple[Tensor, Tensor]:
    """The dense kernel and bias that one branch of a Dilated Reparam Block is equal to.

    Args:
        weight: Kernels of shape (C, 1, k, ...).
        bn: The branch's BatchNorm.
        dilation: The branch's dilation r.
        size: Size K of the large kernel.

    Returns:
        Kernels of shape (C, 1, K, ...) and bias of shape (C,).
    """
    weight, bias = fold_bn(weight, None, bn)
    return pad_kernel(dilate_kernel(weight, dilation), size), bias
