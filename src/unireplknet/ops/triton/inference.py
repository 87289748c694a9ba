"""The whole block without batch statistics, in inference."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unireplknet.ops.triton import conv
from unireplknet.ops.triton.depthwise import toeplitz
from unireplknet.ops.triton.feed_forward import grn_apply, grn_norms, tail
from unireplknet.ops.triton.geometry import Kernel
from unireplknet.ops.triton.launch import Running
from unireplknet.ops.triton.mixing import SqueezeExcite, gate, scale, se_precision
from unireplknet.ops.triton.passes import conv_moments
from unireplknet.ops.triton.tiles import are_shipped


def infer(
    x: Tensor,
    taps: Tensor,
    kernels_of: tuple[Kernel, ...],
    branch_scale: Tensor | None,
    bias: Tensor | None,
    stats: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    se: Sequence[Tensor],
    weight1: Tensor,
    bias1: Tensor,
    grn_gamma: Tensor,
    grn_beta: Tensor | None,
    grn_eps: float,
    weight2: Tensor,
    bias2: Tensor | None,
    stats2: Tensor | None,
    gamma2: Tensor | None,
    beta2: Tensor | None,
    layer_scale: Tensor | None,
    channels_last: bool,
    keep: bool,
) -> Tensor:
    """The whole block without batch statistics, merged or not.

    Args:
        x: Input of shape (B, C, H, W).
        taps: Kernels of all branches, flat; a parameter where it is one kernel, see `cache.keep`.
        kernels_of: Their sizes and dilations.
        branch_scale: Factor of each branch and channel that its norm is, (branches, C), or None.
        bias: Bias of the depthwise layer, (C,), or None.
        stats: Mean and 1 / deviation of the outer norm, (2, C), or None after merging.
        gamma: Its weight, or None.
        beta: Its bias, or None.
        se: SE's parameters.
        weight1: First weight, (4C, C), of the type of ``x``.
        bias1: First bias, (4C,), of the type of ``x``.
        grn_gamma: GRN's weight, (4C,).
        grn_beta: GRN's bias, (4C,), or None.
        grn_eps: GRN's eps.
        weight2: Second weight, (C, 4C), of the type of ``x``.
        bias2: Second bias, (C,), of the type of ``x``, or None.
        stats2: As ``stats``, of the second norm.
        gamma2: Its weight.
        beta2: Its bias.
        layer_scale: Layer scale, (C,), or None.
        channels_last: Memory format of the output.
        keep: Whether the Toeplitz matrices of a constant weight may be kept.

    Returns:
        Output of shape (B, C, H, W).
    """
    batch, channels, height, width = x.shape
    merged = branch_scale is not None
    tiles, cuts = conv.plan("conv", x, kernels_of)
    matrices = None if merged else toeplitz(taps, cuts, x, False, keep)
    tensors = x, taps, branch_scale, bias, stats, gamma, beta, *se, weight1, bias1, grn_gamma, grn_beta
    rest = weight2, bias2, stats2, gamma2, beta2, layer_scale
    with Running("infer", x, *tensors, *rest, grn_eps, channels_last, cuts, conv.setting(x), replay=are_shipped()):
        if matrices is None:
            matrices = conv.toeplitz(taps, branch_scale, cuts, x, merged=True, branches=1, flip=False)
        partial = conv.new_moments(x, cuts)
        y = conv.convolve(x, matrices, cuts, tiles, merged=merged, bias=bias, moments=partial)
        pooled = partial.new_empty(batch, channels)
        conv_moments(partial, cuts, batch, None, pooled)
        _, factor = gate(pooled, stats, gamma, beta, SqueezeExcite(*se), se_precision(x.dtype))
        u = scale(y, stats, gamma, beta, factor)
        h = torch.addmm(bias1, u.view(-1, channels), weight1.t()).view(batch, height, width, -1)
        _, _, grn_scale = grn_norms(h, grn_gamma, grn_eps)
        z = grn_apply(h, grn_scale, grn_beta, h).view(-1, h.shape[-1])
        y = torch.mm(z, weight2.t()) if bias2 is None else torch.addmm(bias2, z, weight2.t())
        return tail(y.view(u.shape), x, stats2, gamma2, beta2, layer_scale, None, channels_last)
