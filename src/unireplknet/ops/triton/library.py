"""The operators registered with PyTorch: schemas, launchers, fake implementations and FLOP formulas.

Importing this imports no Triton: the launchers are imported when an operator first runs, so that compilers can trace
calls where nothing can run. Compilers keep each operator whole. Derivatives sit outside, in ``autograd.py``.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from unireplknet.ops.triton.geometry import Kernel

NAMESPACE = "unireplknet"


def kernels_of(sizes: Sequence[int]) -> tuple[Kernel, ...]:
    """Square kernels, as operators take them.

    Args:
        sizes: Kernel size and dilation of each branch in turn, (k, r, k, r, ...).
    """
    return _kernels_of(tuple(sizes))


@functools.cache
def _kernels_of(sizes: tuple[int, ...]) -> tuple[Kernel, ...]:
    return tuple(Kernel(k, k, r) for k, r in zip(sizes[::2], sizes[1::2], strict=True))


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, flip: bool, keep: bool) -> Tensor:
    from unireplknet.ops.triton import depthwise

    return depthwise.forward(x, weight, bias, dilation, flip, keep)


def _correlate(x: Tensor, grad: Tensor, kernel_size: Sequence[int], dilation: int, dtype: torch.dtype) -> Tensor:
    from unireplknet.ops.triton import depthwise

    return depthwise.grad_weight(x, grad, (kernel_size[0], kernel_size[1]), dilation, dtype)


def _mix(
    x: Tensor,
    taps: Tensor,
    sizes: Sequence[int],
    branch_gamma: Tensor | None,
    branch_beta: Tensor | None,
    branch_eps: float,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    se: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    from unireplknet.ops.triton import mixing

    layers = mixing.SqueezeExcite(*se)
    return mixing.mix(x, taps, kernels_of(sizes), branch_gamma, branch_beta, branch_eps, gamma, beta, eps, layers)


def _mix_backward(
    grad: Tensor,
    residual: Tensor,
    kept: Sequence[Tensor],
    taps: Tensor,
    sizes: Sequence[int],
    branch_gamma: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    se: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    from unireplknet.ops.triton import mixing

    x, ys, y, branch_stats, stats, pooled, hidden, factor = kept
    forward = x, ys, y, branch_stats, stats, pooled, hidden, factor, taps
    layers = mixing.SqueezeExcite(*se)
    return mixing.mix_backward(
        grad.contiguous(), residual, *forward, kernels_of(sizes), branch_gamma, gamma, beta, layers
    )


def _feed_forward(*arguments: Any) -> tuple[Tensor, ...]:
    from unireplknet.ops.triton import feed_forward

    return feed_forward.feed_forward(*arguments)


def _feed_forward_backward(*arguments: Any) -> tuple[Tensor, ...]:
    from unireplknet.ops.triton import feed_forward

    return feed_forward.feed_forward_backward(*arguments)


def _layer_norm(*arguments: Any) -> Tensor:
    from unireplknet.ops.triton import stem

    return stem.layer_norm(*arguments)


def _layer_norm_backward(*arguments: Any) -> tuple[Tensor, Tensor]:
    from unireplknet.ops.triton import stem

    return stem.layer_norm_backward(*arguments)


def _conv_norm(*arguments: Any) -> tuple[Tensor, Tensor]:
    from unireplknet.ops.triton import stem

    return stem.conv_norm(*arguments)


def _contiguous(x: Tensor) -> Tensor:
    from unireplknet.ops.triton import passes

    return passes.contiguous(x)


def _infer(x: Tensor, taps: Tensor, sizes: Sequence[int], *arguments: Any) -> Tensor:
    from unireplknet.ops.triton import inference

    return inference.infer(x, taps, kernels_of(sizes), *arguments)


_SCHEMAS = {
    "conv": "(Tensor x, Tensor weight, Tensor? bias, int dilation, bool flip, bool keep) -> Tensor",
    "correlate": "(Tensor x, Tensor grad, int[2] kernel_size, int dilation, ScalarType dtype) -> Tensor",
    "mix": "(Tensor x, Tensor taps, int[] sizes, Tensor? branch_gamma, Tensor? branch_beta, float branch_eps, "
    "Tensor gamma, Tensor beta, float eps, Tensor[] se) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "mix_backward": "(Tensor grad, Tensor residual, Tensor[] kept, Tensor taps, int[] sizes, Tensor? branch_gamma, "
    "Tensor gamma, Tensor beta, Tensor[] se) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "feed_forward": "(Tensor u, Tensor x, Tensor weight1, Tensor bias1, Tensor grn_gamma, Tensor grn_beta, "
    "float grn_eps, Tensor weight2, Tensor gamma, Tensor beta, float eps, Tensor? layer_scale, Tensor? keep, "
    "bool channels_last) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "feed_forward_backward": "(Tensor grad, Tensor u, Tensor h, Tensor y, Tensor norm, Tensor mean, Tensor stats, "
    "Tensor weight1, Tensor grn_gamma, Tensor grn_beta, Tensor weight2, Tensor gamma, Tensor beta, "
    "Tensor? layer_scale, Tensor? keep) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "layer_norm": "(Tensor y, Tensor shift, Tensor weight, Tensor bias, float eps, bool gelu, bool channels_last) "
    "-> Tensor",
    "layer_norm_backward": "(Tensor grad, Tensor y, Tensor shift, Tensor weight, Tensor bias, float eps, bool gelu) "
    "-> (Tensor, Tensor)",
    "conv_norm": "(Tensor x, Tensor weight, int stride, Tensor shift, Tensor norm_weight, Tensor norm_bias, "
    "float eps, bool gelu, bool channels_last, bool keep) -> (Tensor, Tensor)",
    "contiguous": "(Tensor x) -> Tensor",
    "infer": "(Tensor x, Tensor taps, int[] sizes, Tensor? branch_scale, Tensor? bias, Tensor? stats, "
    "Tensor? gamma, Tensor? beta, Tensor[] se, Tensor weight1, Tensor bias1, Tensor grn_gamma, Tensor? grn_beta, "
    "float grn_eps, Tensor weight2, Tensor? bias2, Tensor? stats2, Tensor? gamma2, Tensor? beta2, "
    "Tensor? layer_scale, bool channels_last, bool keep) -> Tensor",
}

LAUNCHERS: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "correlate": _correlate,
    "mix": _mix,
    "mix_backward": _mix_backward,
    "feed_forward": _feed_forward,
    "feed_forward_backward": _feed_forward_backward,
    "layer_norm": _layer_norm,
    "layer_norm_backward": _layer_norm_backward,
    "conv_norm": _conv_norm,
    "contiguous": _contiguous,
    "infer": _infer,
}
"""What each operator runs. On meta tensors they launch nothing and return what a card would."""


def _statistics(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _fake_conv(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_correlate(x: Tensor, grad: Tensor, kernel_size: list[int], dilation: int, dtype: torch.dtype) -> Tensor:
    return x.new_empty(x.shape[1], 1, *kernel_size, dtype=dtype)


def _fake_mix(
    x: Tensor,
    taps: Tensor,
    sizes: Sequence[int],
    branch_gamma: Tensor | None,
    branch_beta: Tensor | None,
    branch_eps: float,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    se: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    batch, channels, height, width = x.shape
    branches = 0 if branch_gamma is None else len(sizes) // 2
    dtype = _statistics(x)
    return (
        x.new_empty(batch, height, width, channels),
        x.new_empty(branches, batch, channels, height, width),
        torch.empty_like(x),
        x.new_empty(3, branches, channels, dtype=dtype),
        x.new_empty(3, 1, channels, dtype=dtype),
        x.new_empty(batch, channels, dtype=dtype),
        x.new_empty(batch, se[0].shape[0], dtype=dtype),
        x.new_empty(batch, channels, dtype=dtype),
    )


def _fake_mix_backward(
    grad: Tensor,
    residual: Tensor,
    kept: Sequence[Tensor],
    taps: Tensor,
    sizes: Sequence[int],
    branch_gamma: Tensor | None,
    gamma: Tensor,
    beta: Tensor,
    se: Sequence[Tensor],
) -> tuple[Tensor, ...]:
    x, channels, dtype = kept[0], gamma.shape[0], _statistics(kept[0])
    if branch_gamma is None:
        grad_norms = gamma.new_empty(2, 0, channels, dtype=dtype)
    else:
        grad_norms = branch_gamma.new_empty(2, *branch_gamma.shape)
    return (
        torch.empty_like(x),
        torch.empty_like(taps),
        grad_norms,
        gamma.new_empty(2, channels, dtype=dtype),
        *(torch.empty_like(parameter) for parameter in se),
    )


def _fake_feed_forward(u: Tensor, x: Tensor, weight1: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    batch, height, width, _channels = u.shape
    hidden, dtype = weight1.shape[0], _statistics(u)
    return (
        torch.empty_like(x, memory_format=_format(rest[-1])),
        u.new_empty(batch, height, width, hidden),
        torch.empty_like(u),
        u.new_empty(batch, hidden, dtype=dtype),
        u.new_empty(batch, dtype=dtype),
        u.new_empty(3, 1, u.shape[3], dtype=dtype),
    )


def _fake_feed_forward_backward(
    grad: Tensor,
    u: Tensor,
    h: Tensor,
    y: Tensor,
    norm: Tensor,
    mean: Tensor,
    stats: Tensor,
    weight1: Tensor,
    grn_gamma: Tensor,
    grn_beta: Tensor,
    weight2: Tensor,
    gamma: Tensor,
    beta: Tensor,
    layer_scale: Tensor | None,
    keep: Tensor | None,
) -> tuple[Tensor, ...]:
    grad_weight1, grad_weight2 = (torch.empty_like(weight, dtype=grn_gamma.dtype) for weight in (weight1, weight2))
    hidden = [torch.empty_like(grn_gamma) for _ in range(3)]
    grad_scale = gamma.new_empty(0) if layer_scale is None else torch.empty_like(layer_scale)
    tail = torch.empty_like(gamma), torch.empty_like(beta), grad_scale
    return torch.empty_like(u), grad_weight1, *hidden, grad_weight2, *tail


def _format(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def _fake_layer_norm(y: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(y, memory_format=_format(rest[-1]))


def _fake_layer_norm_backward(grad: Tensor, y: Tensor, shift: Tensor, weight: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    dense = y if y.is_contiguous(memory_format=torch.channels_last) else y.contiguous()
    return torch.empty_like(dense), weight.new_empty(3, weight.shape[0])


def _fake_conv_norm(x: Tensor, weight: Tensor, stride: int, *rest: Any) -> tuple[Tensor, Tensor]:
    *_, channels_last, keep = rest
    size = (x.shape[0], weight.shape[0], *(-(-extent // stride) for extent in x.shape[2:]))
    z = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=_format(channels_last))
    return z, torch.empty_like(z, memory_format=torch.channels_last) if keep else x.new_empty(0)


def _fake_contiguous(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_infer(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x, memory_format=_format(rest[-2]))


_FAKES: dict[str, Callable[..., Any]] = {
    "conv": _fake_conv,
    "correlate": _fake_correlate,
    "mix": _fake_mix,
    "mix_backward": _fake_mix_backward,
    "feed_forward": _fake_feed_forward,
    "feed_forward_backward": _fake_feed_forward_backward,
    "layer_norm": _fake_layer_norm,
    "layer_norm_backward": _fake_layer_norm_backward,
    "conv_norm": _fake_conv_norm,
    "contiguous": _fake_contiguous,
    "infer": _fake_infer,
}

for _name, _schema in _SCHEMAS.items():
    _operator = f"{NAMESPACE}::{_name}"
    torch.library.define(_operator, _schema, tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(_operator, ("cuda", "cpu"), LAUNCHERS[_name])
    torch.library.register_fake(_operator, _FAKES[_name])


def _taps(sizes: Sequence[int]) -> int:
    return sum(kernel.height * kernel.width for kernel in kernels_of(sizes))


# FLOP formulas count what the mathematics needs, two per multiplication, not what the Toeplitz products spend. They
# get shapes in place of tensors.


@register_flop_formula(torch.ops.unireplknet.conv)
def _conv_flops(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * weight[2] * weight[3]


@register_flop_formula(torch.ops.unireplknet.correlate)
def _correlate_flops(x: Sequence[int], grad: Sequence[int], kernel_size: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(x) * kernel_size[0] * kernel_size[1]


@register_flop_formula(torch.ops.unireplknet.mix)
def _mix_flops(x: Sequence[int], taps: Any, sizes: Sequence[int], *arguments: Any, **_: Any) -> int:
    return 2 * math.prod(x) * _taps(sizes) + _se_flops(x[0], arguments[-1])


@register_flop_formula(torch.ops.unireplknet.mix_backward)
def _mix_backward_flops(
    grad: Any, residual: Sequence[int], kept: Any, taps: Any, sizes: Sequence[int], *arguments: Any, **_: Any
) -> int:
    return 2 * (2 * math.prod(residual) * _taps(sizes) + _se_flops(residual[0], arguments[-1]))


@register_flop_formula(torch.ops.unireplknet.feed_forward)
def _feed_forward_flops(u: Sequence[int], x: Any, weight1: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * 2 * math.prod(u) * weight1[0]


@register_flop_formula(torch.ops.unireplknet.feed_forward_backward)
def _feed_forward_backward_flops(grad: Any, u: Sequence[int], h: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * _feed_forward_flops(u, None, h[3:])


@register_flop_formula(torch.ops.unireplknet.infer)
def _infer_flops(x: Sequence[int], taps: Any, sizes: Sequence[int], *arguments: Any, **_: Any) -> int:
    # Branches are merged into the first kernel.
    hidden = arguments[6][0]
    return 2 * math.prod(x) * _taps(sizes[:2]) + _se_flops(x[0], arguments[5]) + 2 * 2 * math.prod(x) * hidden


@register_flop_formula(torch.ops.unireplknet.conv_norm)
def _conv_norm_flops(x: Any, weight: Sequence[int], *_: Any, out_shape: Sequence[Sequence[int]], **__: Any) -> int:
    size = out_shape[0]
    return 2 * size[0] * math.prod(size[2:]) * math.prod(weight)


def _se_flops(images: int, se: Sequence[Sequence[int]]) -> int:
    return 2 * images * (math.prod(se[0]) + math.prod(se[2]))
