"""The pointwise half of the block, linear - GELU - GRN - linear, with one hidden map saved instead of three.

The hidden maps are four times as wide as the block and dominate its memory. The backward pass keeps the first
layer's output alone and computes GELU and GRN again from it.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils._python_dispatch import _get_current_dispatch_mode

from unireplknet.ops.backend import is_exporting, only_known_calls
from unireplknet.ops.precision import compute_dtype, without_autocast

CACHE_BYTES = 2 << 20
"""Size of the hidden maps that inference works on at a time on a CPU: about the cache of two cores."""


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer over the channels of a map.

    Args:
        x: Map of shape (B, C, H, W).
        weight: Weight of shape (C_out, C).
        bias: Bias of shape (C_out,).

    Returns:
        Map of shape (B, C_out, H, W), channels_last where the formulation wants it.
    """
    if x.is_cuda:
        return F.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight[:, :, None, None], bias)


def global_response_norm(
    g: Tensor, gamma: Tensor, beta: Tensor | None, eps: float, out: Tensor | None = None
) -> Tensor:
    """Global Response Normalization of a map, statistics in float32 for half precision.

    Half-precision activations near 1e4 have spatial norms that half precision cannot hold, so the norms and
    their ratio stay in float32 and only the resulting factor is cast back.

    Args:
        g: Map of shape (B, C, H, W).
        gamma: Weight of shape (C,).
        beta: Bias of shape (C,), or None.
        eps: Added to the mean norm.
        out: Where to write the result, which may be ``g``; by default a new map.

    Returns:
        Map of shape (B, C, H, W).

    Source:
        ConvNeXt V2, section 3.
    """
    norm, mean = _grn_norms(g, eps, differentiable=out is None and not is_exporting())
    return _rescale(g, _grn_scale(gamma, norm / mean), beta, out)


def _grn_norms(g: Tensor, eps: float, differentiable: bool = False) -> tuple[Tensor, Tensor]:
    wide = g.to(torch.promote_types(g.dtype, torch.float32))
    squares = wide.square().sum((2, 3), keepdim=True)
    if differentiable:
        # A channel that is zero everywhere gets the derivative zero, where that of the square root is infinite.
        norm = torch.where(squares > 0, torch.where(squares > 0, squares, 1).sqrt(), 0)
    else:
        norm = squares.sqrt()
    return norm, norm.mean(1, keepdim=True) + eps


def _grn_scale(gamma: Tensor, ratio: Tensor) -> Tensor:
    return 1 + gamma[:, None, None] * ratio


def _rescale(g: Tensor, scale: Tensor, beta: Tensor | None, out: Tensor | None = None) -> Tensor:
    scale = scale.to(g.dtype)
    if beta is None:
        return torch.mul(g, scale, out=out)
    return torch.addcmul(beta.to(g.dtype)[:, None, None], g, scale, out=out)


def feed_forward(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    gamma: Tensor,
    beta: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    eps: float,
) -> Tensor:
    """Linear, GELU, GRN, linear over the channels of a map.

    Args:
        x: Map of shape (B, C, H, W).
        weight1: First weight, (4C, C).
        bias1: First bias, (4C,).
        gamma: GRN's weight, (4C,).
        beta: GRN's bias, (4C,), or None in merged form.
        weight2: Second weight, (C, 4C).
        bias2: Second bias, (C,), in merged form, or None.
        eps: GRN's eps.

    Returns:
        Map of shape (B, C, H, W).
    """
    tensors = (x, weight1, bias1, gamma, beta, weight2, bias2)
    if has_torch_function(tensors):
        return handle_torch_function(feed_forward, tensors, *tensors, eps)
    if only_known_calls() is not None:
        return _plain(*tensors, eps)
    if not _needs_gradient(tensors):
        # A compiler fuses these calls, a dispatch mode counts them.
        if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
            return _plain(*tensors, eps)
        return _infer(*tensors, eps)
    dtype = compute_dtype(x)
    x, weight1, bias1, weight2 = x.to(dtype), weight1.to(dtype), bias1.to(dtype), weight2.to(dtype)
    bias2 = None if bias2 is None else bias2.to(dtype)
    with without_autocast(x):
        return _FeedForward.apply(x, weight1, bias1, gamma, beta, weight2, bias2, eps)


def _plain(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    gamma: Tensor,
    beta: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    eps: float,
) -> Tensor:
    """The definition, by PyTorch's own calls."""
    g = F.gelu(pointwise(x, weight1, bias1))
    return pointwise(global_response_norm(g, gamma, beta, eps), weight2, bias2)


def _infer(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    gamma: Tensor,
    beta: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
    eps: float,
) -> Tensor:
    """The same without gradients, in place and in parts of the batch."""
    results = []
    for part in _parts(x, weight1.shape[0]):
        g = _pointwise_gelu(part, weight1, bias1)
        results.append(pointwise(global_response_norm(g, gamma, beta, eps, out=g), weight2, bias2))
    return results[0] if len(results) == 1 else torch.cat(results)


def _pointwise_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of a pointwise layer, in one oneDNN call where there is one: it is applied while the result is in cache."""
    # Autocast does not look inside that call.
    fusable = x.device.type == "cpu" and x.dtype == weight.dtype == compute_dtype(x) and x.dtype in _onednn_dtypes()
    if not fusable or x.numel() == 0 or not torch.backends.mkldnn.enabled:
        return F.gelu(pointwise(x, weight, bias))
    ones = [1, 1]
    kernel = weight[:, :, None, None]
    return torch.ops.mkldnn._convolution_pointwise(x, kernel, bias, [0, 0], ones, ones, 1, "gelu", [], "none")


@functools.cache
def _onednn_dtypes() -> tuple[torch.dtype, ...]:
    """What oneDNN's fused layers compute here: nothing on PyTorch builds without it."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return ()
    return (torch.float32, torch.bfloat16) if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


def _parts(x: Tensor, hidden: int) -> Sequence[Tensor]:
    """The batch in parts whose hidden maps stay in a CPU's cache, since memory limits the passes over them."""
    if x.device.type != "cpu":
        return (x,)
    sample = hidden * x.shape[2] * x.shape[3] * x.element_size()
    return x.split(max(1, CACHE_BYTES // sample))


def _needs_gradient(tensors: Sequence[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        gamma: Tensor,
        beta: Tensor | None,
        weight2: Tensor,
        bias2: Tensor | None,
        eps: float,
    ) -> Tensor:
        h = pointwise(x, weight1, bias1)
        g = F.gelu(h)
        norm, mean = _grn_norms(g, eps)
        z = _rescale(g, _grn_scale(gamma, norm / mean), beta, out=g)
        ctx.save_for_backward(x, weight1, bias1, gamma, beta, weight2, bias2, h, norm, mean)
        # Under a compiler there are no second derivatives.
        ctx.eps, ctx.differentiable = eps, not torch.compiler.is_compiling()
        return pointwise(z, weight2, bias2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, h, norm, mean = ctx.saved_tensors
        x, weight1, _, gamma, beta, weight2, _ = inputs
        if torch.is_grad_enabled() and ctx.differentiable:
            return (*_differentiable_backward(inputs, ctx.eps, grad), None)
        ratio = norm / mean
        scale = _grn_scale(gamma, ratio)

        def norm_gradient(dot: Tensor) -> Tensor:
            # dot is the gradient of the scale; the result multiplies g in its own gradient. A channel that is zero
            # everywhere has a norm without gradient; PyTorch takes zero for it as well.
            dratio = dot * gamma[:, None, None]
            dnorm = (dratio - (dratio * ratio).mean(1, keepdim=True)) / mean
            return torch.where(norm > 0, dnorm / norm, 0)

        last = _wide_map_tail if h.shape[2] * h.shape[3] >= x.shape[1] else _small_map_tail
        dg, dweight2, dot, dbeta = last(grad, F.gelu(h), scale, beta, weight2, norm_gradient)
        dh = torch.ops.aten.gelu_backward(dg, h)
        dx = pointwise(dh, weight1.t()) if ctx.needs_input_grad[0] else None
        return (
            dx,
            _outer(dh, x),
            dh.sum((0, 2, 3)),
            (dot * ratio).sum((0, 2, 3)).to(gamma.dtype),
            None if beta is None else dbeta.to(beta.dtype),
            dweight2,
            grad.sum((0, 2, 3)) if ctx.needs_input_grad[6] else None,
            None,
        )


def _differentiable_backward(inputs: Sequence[Tensor | None], eps: float, grad: Tensor) -> list[Tensor | None]:
    """The same gradients through the definition, whose own derivative PyTorch knows."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    x, weight1, bias1, gamma, beta, weight2, bias2 = inputs
    with without_autocast(grad):
        y = _plain(x, weight1, bias1, gamma, beta, weight2, bias2, eps)  # type: ignore[arg-type]
        grads = iter(torch.autograd.grad(y, wanted, grad, create_graph=True))
    return [next(grads) if t is not None and t.requires_grad else None for t in inputs]


def _small_map_tail(
    grad: Tensor,
    g: Tensor,
    scale: Tensor,
    beta: Tensor | None,
    weight2: Tensor,
    norm_gradient: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``pointwise(g * scale + beta, weight2)``, step by step; overwrites g.

    Args:
        grad: Gradient of the result, of shape (B, C, H, W).
        g: GRN's input, of shape (B, 4C, H, W).
        scale: GRN's factor, of shape (B, 4C, 1, 1).
        beta: GRN's bias, of shape (4C,), or None.
        weight2: Weight of the second layer, of shape (C, 4C).
        norm_gradient: From the gradient of the scale to the factor with which g enters its own gradient through it.

    Returns:
        Gradients of g, of weight2, of the scale (shape (B, 4C, 1, 1)) and of beta.
    """
    dz = pointwise(grad, weight2.t())
    z = _rescale(g, scale, beta)
    dweight2, dbeta = _outer(grad, z), dz.sum((0, 2, 3))
    dot = torch.mul(dz, g, out=z).sum((2, 3), keepdim=True, dtype=scale.dtype)
    dg = dz.mul_(scale.to(dz.dtype)).addcmul_(g, norm_gradient(dot).to(dz.dtype))
    return dg, dweight2, dot, dbeta


def _wide_map_tail(
    grad: Tensor,
    g: Tensor,
    scale: Tensor,
    beta: Tensor | None,
    weight2: Tensor,
    norm_gradient: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same with the scale moved from the map to each sample's weights, which are smaller than the map.

    One product of gradient and g a sample, of the weight's size, then serves the gradients of weight and scale, and
    no pass over the map is left but the products themselves.
    """
    rows = grad.permute(0, 2, 3, 1).flatten(1, 2)
    hidden = g.permute(0, 2, 3, 1).flatten(1, 2)
    moments = torch.bmm(rows.transpose(1, 2), hidden).to(scale.dtype)
    factor = scale.flatten(1)[:, None]
    total = rows.sum((0, 1), dtype=scale.dtype)
    dweight2 = (moments * factor).sum(0)
    if beta is not None:
        dweight2 = dweight2 + total[:, None] * beta
    dot = (moments * weight2).sum(1)[:, :, None, None]
    pull = norm_gradient(dot).flatten(1)[:, None]
    dg = hidden.mul_(pull.to(g.dtype)).baddbmm_(rows, (weight2 * factor).to(g.dtype))
    dbeta = total @ weight2.to(total.dtype)
    return dg.unflatten(1, grad.shape[2:]).permute(0, 3, 1, 2), dweight2.to(weight2.dtype), dot, dbeta


def _outer(grad: Tensor, x: Tensor) -> Tensor:
    """Gradient (C_out, C) of a pointwise layer's weight: grad times x, summed over all pixels."""
    return grad.permute(0, 2, 3, 1).flatten(0, 2).t() @ x.permute(0, 2, 3, 1).flatten(0, 2)
