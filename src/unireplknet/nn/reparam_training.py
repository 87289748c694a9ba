"""The Dilated Reparam Block's training step: y = sum over branches of BN_i(conv_i(x)), with one saved activation.

Composed from modules, six branches keep six convolution outputs for the backward pass. Here each branch's output
lives only until its statistics are known and it has been added to the sum; the backward pass convolves again.
Gradients are exact, and each branch's real BatchNorm2d ends the step with the statistics it would have given
itself: the function returns them, and :func:`reparam_train` updates the modules outside of it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unireplknet.nn.batch_stats import (
    Group,
    batch_count,
    batch_norm_backward,
    batch_stats,
    sync_group,
    update_statistics,
)
from unireplknet.ops.backend import BACKENDS, choose_backend
from unireplknet.ops.precision import compute_dtype, without_autocast


def reparam_train(
    x: Tensor, weights: Sequence[Tensor], dilations: Sequence[int], norms: Sequence[nn.BatchNorm2d]
) -> Tensor:
    """Sum of the branches with batch statistics; updates the norms' running statistics.

    Args:
        x: Input of shape (B, C, H, W).
        weights: Kernels of each branch, of shape (C, 1, k, k).
        dilations: Dilation r of each branch.
        norms: BatchNorm of each branch, in training mode, with a momentum; affine.

    Returns:
        Output of shape (B, C, H, W).

    Source:
        Section 3.2.2 of the paper.
    """
    group = sync_group(norms[0])
    count = batch_count(x, group)
    parameters = [p for w, norm in zip(weights, norms, strict=True) for p in (w, norm.weight, norm.bias)]
    x, eps = x.to(compute_dtype(x)), [norm.eps for norm in norms]
    # The backward pass may run in another thread, and takes the backends of the forward pass.
    backends = [choose_backend(x, weight, r) for weight, r in zip(weights, dilations, strict=True)]
    with without_autocast(x):
        y, means, variances = _ReparamTrain.apply(x, backends, tuple(dilations), eps, count, group, *parameters)
    for norm, mean, variance in zip(norms, means.unbind(), variances.unbind(), strict=True):
        update_statistics(norm, mean, variance, count)
    return y


class _ReparamTrain(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        backends: Sequence[str],
        dilations: Sequence[int],
        eps: Sequence[float],
        count: int,
        group: Group,
        *parameters: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        total = torch.zeros_like(x)
        means, variances, rstds, shifts = [], [], [], []
        for i, r in enumerate(dilations):
            weight, gamma, beta = parameters[3 * i : 3 * i + 3]
            y = BACKENDS[backends[i]].depthwise_conv2d(x, weight.to(x.dtype), None, r)
            mean, variance = batch_stats(y, count, group)
            rstd = torch.rsqrt(variance + eps[i])
            scale = gamma * rstd
            total.addcmul_(y, scale.to(y.dtype)[:, None, None])
            means.append(mean)
            variances.append(variance)
            rstds.append(rstd)
            shifts.append(beta - mean * scale)
        total.add_(torch.stack(shifts).sum(0).to(total.dtype)[:, None, None])
        statistics = torch.stack(means), torch.stack(variances)
        ctx.mark_non_differentiable(*statistics)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, statistics[0], torch.stack(rstds), *parameters)
        ctx.backends, ctx.dilations, ctx.count, ctx.group = backends, dilations, count, group
        return total, *statistics

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
        x, means, rstds, *parameters = ctx.saved_tensors
        if grad is None:
            return (None,) * (6 + len(parameters))
        planes = x.contiguous()  # what the weight gradients of all branches read
        grad_x: Tensor | None = None
        grads: list[Tensor | None] = []
        for i, r in enumerate(ctx.dilations):
            weight, gamma, _ = parameters[3 * i : 3 * i + 3]
            backend, kernels = BACKENDS[ctx.backends[i]], weight.to(x.dtype)
            y = backend.depthwise_conv2d(x, kernels, None, r)
            dy, dgamma, dbeta = batch_norm_backward(grad, y, gamma, means[i], rstds[i], ctx.count, ctx.group)
            if ctx.needs_input_grad[0]:
                dx = backend.depthwise_conv2d(dy, kernels.flip(2, 3), None, r)
                grad_x = dx if grad_x is None else grad_x.add_(dx)
            dweight = backend.grad_weight(planes, dy, (weight.shape[2], weight.shape[3]), r)
            grads += [dweight.to(weight.dtype), dgamma.to(gamma.dtype), dbeta.to(gamma.dtype)]
        return grad_x, None, None, None, None, None, *grads
