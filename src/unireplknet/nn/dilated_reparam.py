"""Dilated Reparam Block: a large depthwise kernel and parallel dilated small ones."""

from typing import Any, cast

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.overrides import has_torch_function_unary

from unireplknet.nn.batch_stats import SyncBatchNorm2d
from unireplknet.nn.layers import (
    DepthwiseConv2d,
    check_layer,
    check_norm,
    is_untouched,
    make_plain,
    set_weight_and_bias,
)
from unireplknet.nn.reparam import (
    BatchNorm,
    Branches,
    check_branches,
    default_branches,
    fold_bn,
    fold_dtype,
    merge_branch,
)
from unireplknet.nn.reparam_training import reparam_train
from unireplknet.ops import depthwise_conv2d
from unireplknet.ops.backend import is_tracing, only_known_calls


class ReparamBranch(nn.Module):
    """One branch of a Dilated Reparam Block: a small, possibly dilated, depthwise convolution and BatchNorm.

    Args:
        dim: Channels C.
        kernel_size: Kernel size k.
        dilation: Dilation r.
        dd: ``device`` and ``dtype`` of the parameters.
    """

    def __init__(self, dim: int, kernel_size: int, dilation: int = 1, **dd: Any) -> None:
        super().__init__()
        self.conv = DepthwiseConv2d(dim, kernel_size, dilation, **dd)
        self.bn = nn.BatchNorm2d(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise x of shape (B, C, H, W)."""
        return self.bn(self.conv(x))

    @property
    def untouched(self) -> bool:
        """Whether a fused computation may stand in for the branch: no hooks, no replaced layers."""
        children: dict[str, Any] = self._modules  # look-ups of attributes would take longer than the rest
        conv, bn = children["conv"], children["bn"]
        return (
            is_untouched(self, ReparamBranch)
            and is_untouched(conv, DepthwiseConv2d)
            and is_untouched(bn, nn.BatchNorm2d, SyncBatchNorm2d)
        )

    @property
    def fixed(self) -> bool:
        """Whether the norm uses its running statistics, so that the branch is one linear map."""
        return not self.bn.training and self.bn.running_mean is not None

    @property
    def learning(self) -> bool:
        """Whether the norm uses batch statistics and averages them exponentially, if at all."""
        return self.bn.training and self.bn.affine and self.bn.momentum is not None

    def merged_kernel(self, size: int, dilation: int = 1) -> tuple[Tensor, Tensor]:
        """The kernel of the given size and dilation, and the bias, that the branch equals in eval mode."""
        weight = self.conv.weight
        return merge_branch(weight.to(fold_dtype(weight)), self.bn, self.conv.dilation[0] // dilation, size)


@register_notrace_module  # which path it takes depends on its norms
class DilatedReparamConv(nn.Module):
    """Dilated Reparam Block: a large depthwise kernel and parallel dilated small ones, each with a BatchNorm.

    In training the branches run side by side. In eval mode they are merged on the fly into the one K x K kernel
    they equal, which costs as little as the merged network, stays differentiable in every branch parameter and
    is formed anew at each call. :meth:`fuse` makes the merge permanent.

    Args:
        dim: Channels C.
        kernel_size: Size K of the large kernel, odd.
        branches: Pairs (k, r) of the parallel branches, (k-1)r+1 <= K; equal pairs may occur. None takes
            :func:`~unireplknet.nn.reparam.default_branches`.
        dilation: Dilation of the whole block, which spreads every branch, for networks of a smaller output stride.
        dd: ``device`` and ``dtype`` of the parameters.

    Raises:
        ValueError: If a branch does not fit into K.

    Source:
        Section 3.2.2 and figure 2 of the paper.
    """

    def __init__(
        self, dim: int, kernel_size: int, branches: Branches | None = None, dilation: int = 1, **dd: Any
    ) -> None:
        super().__init__()
        self.dilation = dilation
        branches = default_branches(kernel_size) if branches is None else branches
        check_branches(kernel_size, branches)
        pairs = [(kernel_size, 1), *branches]
        self.branches = nn.ModuleList(ReparamBranch(dim, k, r * dilation, **dd) for k, r in pairs)

    @property
    def main(self) -> DepthwiseConv2d:
        """The large kernel's convolution, that of branch 0."""
        return cast(ReparamBranch, self.branches[0]).conv

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Size (K, K) of the large kernel."""
        return self.main.kernel_size

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The (k, r) of the branches beside the large kernel, before the block's own dilation."""
        convs = (cast(ReparamBranch, branch).conv for branch in self.branches[1:])
        return [(conv.kernel_size[0], conv.dilation[0] // self.dilation) for conv in convs]

    def forward(self, x: Tensor) -> Tensor:
        """Convolve x of shape (B, C, H, W); same shape out."""
        branches = [cast(ReparamBranch, branch) for branch in self.branches]
        # A trace in which kernels are computed is none that the older ONNX exporter takes.
        if has_torch_function_unary(x) or is_tracing() or not all(branch.untouched for branch in branches):
            return sum(branch(x) for branch in branches)
        if all(branch.fixed for branch in branches):
            weight, bias = (merged.to(self.main.weight.dtype) for merged in self.merged_kernel())
            return depthwise_conv2d(x, weight, bias, self.dilation)
        learning = all(branch.learning for branch in branches) and only_known_calls() is None
        if learning and x.shape[0] * x.shape[2] * x.shape[3] != 1:
            convs = [branch.conv for branch in branches]
            norms = [branch.bn for branch in branches]
            return reparam_train(x, [conv.weight for conv in convs], [conv.dilation[0] for conv in convs], norms)
        return sum(branch(x) for branch in branches)

    def merged_kernel(self) -> tuple[Tensor, Tensor]:
        """The kernel and bias that the branches equal in eval mode.

        Returns:
            Kernels of shape (C, 1, K, K) and bias of shape (C,), in float64 where the device has it.
        """
        size = self.kernel_size[0]
        merged = [cast(ReparamBranch, branch).merged_kernel(size, self.dilation) for branch in self.branches]
        kernels, biases = zip(*merged, strict=True)
        return torch.stack(kernels).sum(0), torch.stack(biases).sum(0)

    def check_mergeable(self, name: str) -> None:
        """Check that every branch can be merged.

        Args:
            name: The block's name, for the message.

        Raises:
            ValueError: A branch has been replaced, or its norm has no running statistics.
        """
        for i, branch in enumerate(self.branches):
            check_layer(f"{name}.branches.{i}", branch, ReparamBranch)
            check_layer(f"{name}.branches.{i}.conv", cast(ReparamBranch, branch).conv, DepthwiseConv2d)
            check_norm(f"{name}.branches.{i}.bn", cast(ReparamBranch, branch).bn)

    @torch.no_grad()
    def fuse(self, norm: BatchNorm | None = None) -> DepthwiseConv2d:
        """The single convolution that the branches equal; the method name is timm's hook for a replacement.

        Args:
            norm: A BatchNorm that follows, to be folded in as well.

        Returns:
            A depthwise convolution with bias, on the same device, of the same dtype and mode.

        Raises:
            ValueError: A branch has been replaced, or its norm has no running statistics.
        """
        self.check_mergeable(type(self).__name__)
        for branch in self.branches:
            make_plain(cast(ReparamBranch, branch).conv)
        old = self.main.weight
        fused = DepthwiseConv2d(old.shape[0], old.shape[-1], self.dilation, device=old.device, dtype=old.dtype)
        fused.weight.requires_grad_(old.requires_grad)
        weight, bias = self.merged_kernel()
        set_weight_and_bias(fused, *((weight, bias) if norm is None else fold_bn(weight, bias, norm)))
        return fused.train(self.training)
