"""The parts of UniRepLKNet: Dilated Reparam Block, LarK and SmaK block, stem, downsampling."""

from typing import Any, Literal, TypeVar, cast, get_args

import torch
from timm.layers import DropPath, LayerNorm2d
from torch import Tensor, nn
from torch.overrides import has_torch_function_unary

from unireplknet.nn.batch_stats import scaled_batch_norm
from unireplknet.nn.conv_norm import conv_norm
from unireplknet.nn.dilated_reparam import DilatedReparamConv
from unireplknet.nn.feedforward import feed_forward
from unireplknet.nn.fused import fused_block, fusion
from unireplknet.nn.layers import (
    ConvBNReLU,
    DepthwiseConv2d,
    GlobalResponseNorm,
    SqueezeExcite,
    check_layer,
    check_norm,
    fold_into,
    is_untouched,
    make_plain,
    set_weight_and_bias,
)
from unireplknet.nn.reparam import BatchNorm, Branches, check_branches, default_branches, fold_bn, fold_dtype

Extra = Literal["se", "bottleneck", "pointwise", "depthwise", "none"]
"""What gives a block depth beside its large kernel (guideline 1): SE, or row A, B or C of its ablation."""


class ExtraConvs(nn.Module):
    """What rows A, B and C of the block ablation put in place of SE.

    The paper names the convolutions only. We assume the position of SE (after the norm of the depthwise layer),
    a BatchNorm after each convolution, ReLU between them, and a shortcut around the group; parameters and MACs
    of all three rows then equal the printed ones.

    Args:
        dim: Channels C.
        kind: "bottleneck" (A: 1x1 to C/4, depthwise 3x3, 1x1 back), "pointwise" (B: 1x1 to C/4 and back) or
            "depthwise" (C: two depthwise 3x3).
        dilation: Dilation of the depthwise convolutions.
        dd: ``device`` and ``dtype`` of the parameters.

    Source:
        Table 3a of the journal version (table 1 of the paper).
    """

    def __init__(self, dim: int, kind: Extra, dilation: int = 1, **dd: Any) -> None:
        super().__init__()
        hidden = dim if kind == "depthwise" else dim // 4
        layers: list[nn.Conv2d] = []
        if kind in ("bottleneck", "pointwise"):
            layers = [nn.Conv2d(dim, hidden, 1, bias=False, **dd), nn.Conv2d(hidden, dim, 1, bias=False, **dd)]
        if kind == "bottleneck":
            layers.insert(1, DepthwiseConv2d(hidden, 3, dilation, **dd))
        if kind == "depthwise":
            layers = [DepthwiseConv2d(dim, 3, dilation, **dd), DepthwiseConv2d(dim, 3, dilation, **dd)]
        last = len(layers) - 1
        self.layers = nn.Sequential(*(ConvBNReLU(conv, relu=i < last, **dd) for i, conv in enumerate(layers)))

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, C, H, W); same shape out."""
        return x + self.layers(x)

    def check_mergeable(self, name: str) -> None:
        """Check that every layer can be merged; see :meth:`UniRepLKBlock.check_mergeable`."""
        for i, layer in enumerate(self.layers):
            check_layer(f"{name}.layers.{i}", layer, ConvBNReLU)
            norm = cast(ConvBNReLU, layer).bn
            if not isinstance(norm, nn.Identity):
                check_norm(f"{name}.layers.{i}.bn", norm)

    def reparameterize(self) -> None:
        """Fold the norms into the convolutions, in place."""
        for layer in self.layers:
            make_plain(cast(ConvBNReLU, layer).conv)
            cast(ConvBNReLU, layer).reparameterize()


def _depthwise_layer(dim: int, kernel_size: int, branches: Branches | None, dilation: int, **dd: Any) -> nn.Module:
    if kernel_size == 0:
        return nn.Identity()
    branches = default_branches(kernel_size) if branches is None else branches
    if branches:
        return DilatedReparamConv(dim, kernel_size, branches, dilation, **dd)
    check_branches(kernel_size, branches)
    return DepthwiseConv2d(dim, kernel_size, dilation, **dd)


def _extra_layer(dim: int, kind: Extra, dilation: int, **dd: Any) -> nn.Module:
    if kind not in get_args(Extra):
        raise ValueError(f"extra is {kind!r}, expected one of {', '.join(get_args(Extra))}")
    if kind == "se":
        return SqueezeExcite(dim, rd_channels=dim // 4, **dd)
    return nn.Identity() if kind == "none" else ExtraConvs(dim, kind, dilation, **dd)


class UniRepLKBlock(nn.Module):
    """The block: depthwise layer, BatchNorm, SE, and a pointwise feed-forward network with GRN.

    It is a LarK block where the kernel is large enough for parallel branches, a SmaK block with a plain small
    kernel otherwise, and has no depthwise layer at all with kernel size 0.

    Args:
        dim: Channels C.
        kernel_size: Depthwise kernel size K, odd, or 0 for no depthwise layer.
        branches: Branches of the Dilated Reparam Block; None for the default of K, empty for a plain kernel.
        extra: Extra structure after the norm.
        drop_path: Probability of dropping the residual branch of a sample.
        layer_scale_init: Initial layer scale; None for no layer scale.
        dilation: Dilation of the depthwise layer and of every branch.
        channels_last: Memory format of the fused kernels' output: channels_last where a convolution reads it next.
        dd: ``device`` and ``dtype`` of the parameters.

    Source:
        Section 3.2 and figure 3 of the paper.
    """

    layer_scale: nn.Parameter | None

    def __init__(
        self,
        dim: int,
        kernel_size: int,
        branches: Branches | None = None,
        extra: Extra = "se",
        drop_path: float = 0.0,
        layer_scale_init: float | None = 1e-6,
        dilation: int = 1,
        channels_last: bool = False,
        **dd: Any,
    ) -> None:
        super().__init__()
        self.channels_last = channels_last
        hidden = 4 * dim
        self.dwconv = _depthwise_layer(dim, kernel_size, branches, dilation, **dd)
        self.norm: nn.Module = nn.BatchNorm2d(dim, **dd) if kernel_size else nn.Identity()
        self.extra = _extra_layer(dim, extra, dilation, **dd)
        self.pwconv1 = nn.Linear(dim, hidden, **dd)
        self.act = nn.GELU()
        self.grn = GlobalResponseNorm(hidden, **dd)
        self.pwconv2 = nn.Linear(hidden, dim, bias=False, **dd)
        self.norm2: nn.Module = nn.BatchNorm2d(dim, **dd)
        self.layer_scale = (
            None if layer_scale_init is None else nn.Parameter(torch.full((dim,), layer_scale_init, **dd))
        )
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, C, H, W); same shape out."""
        parts = fusion(self, x)
        if not isinstance(parts, str):
            return fused_block(self, parts, x)
        return x + self.drop_path(self.branch(x))

    def branch(self, x: Tensor) -> Tensor:
        """The block without drop path and shortcut, by its modules one after the other."""
        return self._norm_and_scale(self._feed_forward(self.extra(self.norm(self.dwconv(x)))))

    def _norm_and_scale(self, y: Tensor) -> Tensor:
        norm, scale = self.norm2, self.layer_scale
        if scale is None:
            return norm(y)
        # Only a training step keeps the norm's output; torch.fx needs the module, whose calls update the statistics.
        keeps = self.training and not has_torch_function_unary(y)
        if keeps and isinstance(norm, nn.BatchNorm2d) and is_untouched(norm, nn.BatchNorm2d):
            return scaled_batch_norm(y, norm, scale)
        return norm(y) * scale[:, None, None]

    def _feed_forward(self, y: Tensor) -> Tensor:
        first, second, grn = self.pwconv1, self.pwconv2, self.grn
        layers = ((first, nn.Linear), (self.act, nn.GELU), (grn, GlobalResponseNorm), (second, nn.Linear))
        if all(is_untouched(layer, kind) for layer, kind in layers):
            return feed_forward(y, first.weight, first.bias, grn.weight, grn.bias, second.weight, second.bias, grn.eps)
        return second(grn(self.act(first(y.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2)

    @torch.no_grad()
    def reparameterize(self) -> "UniRepLKBlock":
        """Merge in place: branches, both BatchNorms, layer scale and GRN's bias go. Merging twice is harmless.

        Returns:
            The block.

        Raises:
            ValueError: A layer has been replaced; nothing is merged then.
        """
        self.check_mergeable(type(self).__name__)
        for layer in (self.dwconv, self.pwconv2):
            make_plain(layer)
        if isinstance(self.norm, BatchNorm):
            if isinstance(self.dwconv, DilatedReparamConv):
                self.dwconv = self.dwconv.fuse(self.norm)
            elif isinstance(self.dwconv, DepthwiseConv2d):
                fold_into(self.dwconv, self.norm)
            self.norm = nn.Identity().train(self.training)
        if isinstance(self.extra, ExtraConvs):
            self.extra.reparameterize()
        if isinstance(self.norm2, BatchNorm):
            self._fold_tail(self.norm2)
            self.norm2 = nn.Identity().train(self.training)
        return self

    def check_mergeable(self, name: str) -> None:
        """Check that the layers that a merge changes are what it expects.

        Args:
            name: The block's name, for the message.

        Raises:
            ValueError: A layer has been replaced, or a norm has no running statistics.
        """
        if not isinstance(self.norm, nn.Identity):
            check_norm(f"{name}.norm", self.norm)
            if isinstance(self.dwconv, DilatedReparamConv):
                self.dwconv.check_mergeable(f"{name}.dwconv")
            else:
                check_layer(f"{name}.dwconv", self.dwconv, DepthwiseConv2d)
        if isinstance(self.extra, ExtraConvs):
            self.extra.check_mergeable(f"{name}.extra")
        if not isinstance(self.norm2, nn.Identity):
            check_norm(f"{name}.norm2", self.norm2)
            check_layer(f"{name}.pwconv2", self.pwconv2, nn.Linear)
            check_layer(f"{name}.grn", self.grn, GlobalResponseNorm)

    def _fold_tail(self, norm2: BatchNorm) -> None:
        weight = self.pwconv2.weight.to(fold_dtype(self.pwconv2.weight))
        bias = None if self.grn.bias is None else weight @ self.grn.bias.to(weight)
        weight, bias = fold_bn(weight, bias, norm2)
        if self.layer_scale is not None:
            scale = self.layer_scale.to(weight)
            weight, bias = weight * scale[:, None], bias * scale
        set_weight_and_bias(self.pwconv2, weight, bias)
        self.layer_scale = None
        self.grn.bias = None


M = TypeVar("M", bound=nn.Module)


def reparameterize(model: M) -> M:
    """Merge every block and Dilated Reparam Block inside a model, in place.

    Args:
        model: Any module tree: a UniRepLKNet, a feature extractor or a segmenter around one.

    Returns:
        The model.

    Raises:
        ValueError: If the model itself is a lone Dilated Reparam Block, which only its parent can replace, or if some
            layer has been replaced. Nothing is merged then.
    """
    if isinstance(model, DilatedReparamConv):
        raise ValueError("a DilatedReparamConv cannot replace itself: use the module that its fuse() returns")
    for name, module in model.named_modules():
        if isinstance(module, UniRepLKBlock | DilatedReparamConv):
            module.check_mergeable(name or type(module).__name__)
    for module in model.modules():
        if isinstance(module, UniRepLKBlock):
            module.reparameterize()
        for name, child in module.named_children():
            if isinstance(child, DilatedReparamConv):
                setattr(module, name, child.fuse())
    return model


class Stem(nn.Module):
    """Two 3x3 convolutions from the input map to the first stage, each with a channel LayerNorm.

    Args:
        in_chans: Channels C' of the input map.
        dim: Channels of the first stage; the first convolution makes half as many.
        stride: Total stride: 4 (published), 2 or 1 for small maps.
        dd: ``device`` and ``dtype`` of the parameters.

    Raises:
        ValueError: If ``stride`` is not 1, 2 or 4.
    """

    def __init__(self, in_chans: int, dim: int, stride: int = 4, **dd: Any) -> None:
        super().__init__()
        if stride not in (1, 2, 4):
            raise ValueError(f"stem_stride is {stride}, expected 4, 2 or 1")
        strides = {4: (2, 2), 2: (2, 1), 1: (1, 1)}[stride]
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, strides[0], padding=1, **dd)
        self.norm1 = LayerNorm2d(dim // 2, **dd)
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, strides[1], padding=1, **dd)
        self.norm2 = LayerNorm2d(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, C', H, W) to (B, C, ceil(H/stride), ceil(W/stride))."""
        x = conv_norm(self.conv1, self.norm1, self.act, x, channels_last=True)
        return conv_norm(self.conv2, self.norm2, None, x, channels_last=False)


class Downsample(nn.Module):
    """One dense 3x3 convolution and a channel LayerNorm, between stages.

    Args:
        in_dim: Channels before.
        dim: Channels after.
        stride: Stride of the convolution: 2, or 1 where the network's output stride has been reached.
        dilation: Dilation of the convolution.
        dd: ``device`` and ``dtype`` of the parameters.
    """

    def __init__(self, in_dim: int, dim: int, stride: int = 2, dilation: int = 1, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 3, stride, padding=dilation, dilation=dilation, **dd)
        self.norm = LayerNorm2d(dim, **dd)

    def forward(self, x: Tensor) -> Tensor:
        """Map x of shape (B, C, H, W) to (B, C_out, ceil(H/stride), ceil(W/stride))."""
        return conv_norm(self.conv, self.norm, None, x, channels_last=False)
