"""Batch statistics as BatchNorm takes them, on one process or synchronised over several."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

Group = Any
"""A torch.distributed process group, or None for statistics of this process alone."""


def batch_count(y: Tensor, group: Group = None) -> int:
    """Values per channel of a map.

    Args:
        y: Map of shape (B, C, H, W).
        group: Processes whose maps are taken together.
    """
    count = y.numel() // y.shape[1]
    if group is None:
        return count
    whole = torch.tensor(count, device=y.device)
    dist.all_reduce(whole, group=group)
    return int(whole)


def batch_stats(y: Tensor, count: int, group: Group = None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in float32 for half precision.

    Args:
        y: Map of shape (B, C, H, W).
        count: Values per channel, see :func:`batch_count`.
        group: Processes whose maps are taken together. One that has no sample takes part without weight.

    Returns:
        Mean and variance of shape (C,).
    """
    wide = torch.promote_types(y.dtype, torch.float32)
    if not y.numel():
        mean = variance = torch.zeros(y.shape[1], dtype=wide, device=y.device)
    elif y.device.type == "cpu" and not torch.compiler.is_compiling():
        # What BatchNorm itself runs; var_mean takes ten times as long here. The dtype of the results is that of
        # the running statistics it is given to update by nothing.
        ignored = torch.zeros(y.shape[1], dtype=wide)
        mean, variance = torch.batch_norm_update_stats(y, ignored, ignored, 0.0)
    else:
        variance, mean = torch.var_mean(y.to(wide), (0, 2, 3), correction=0)
    if group is None:
        return mean, variance
    # Means first, then squares around the common mean: sums of squares would cancel.
    share = y.numel() // y.shape[1] / max(1, count)
    common = mean * share
    dist.all_reduce(common, group=group)
    square = (variance + (mean - common) ** 2) * share
    dist.all_reduce(square, group=group)
    return common, square


def batch_norm_backward(
    grad: Tensor, y: Tensor, gamma: Tensor, mean: Tensor, rstd: Tensor, count: int, group: Group = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a BatchNorm with batch statistics.

    Args:
        grad: Gradient of the norm's output, of shape (B, C, H, W).
        y: The norm's input, same shape.
        gamma: The norm's weight, of shape (C,).
        mean: Batch mean, of shape (C,).
        rstd: 1 / sqrt(variance + eps), of shape (C,).
        count: Values per channel that the statistics were taken over.
        group: Processes that they were taken over.

    Returns:
        Gradients of the input, of gamma and of beta. The latter two are this process's own, as for any other
        parameter: averaging them over processes is the trainer's part.
    """
    if group is None and y.numel():  # PyTorch's own divides by the count
        return torch.ops.aten.native_batch_norm_backward(
            grad, y, gamma, None, None, mean, rstd, True, 0.0, [True, True, True]
        )
    wide = mean.dtype
    shape = (slice(None), None, None)
    centred = y.to(wide) - mean[shape]
    dbeta = grad.to(wide).sum((0, 2, 3))
    dgamma = (grad.to(wide) * centred).sum((0, 2, 3)) * rstd
    sums = torch.stack([dbeta, dgamma])
    if group is not None:
        dist.all_reduce(sums, group=group)
    mean_grad, mean_dot = sums / max(1, count)
    scale = gamma.to(wide) * rstd
    dy = (grad.to(wide) - mean_grad[shape] - centred * (rstd * mean_dot)[shape]) * scale[shape]
    return dy.to(grad.dtype), dgamma, dbeta


@torch.no_grad()
def update_statistics(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Update a norm's running statistics from a batch, as its own forward would.

    Args:
        norm: A BatchNorm with a momentum.
        mean: Batch mean, of shape (C,).
        variance: Biased batch variance, of shape (C,).
        count: Values per channel.
    """
    if not count or not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None, "kept beside the running statistics"
    assert norm.momentum is not None, "the caller's part: a plain average takes the plain path"
    norm.num_batches_tracked.add_(1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    unbiased = variance * (count / (count - 1))
    norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), norm.momentum)


class _Update(NamedTuple):
    """Running statistics of norms of equal momentum, and what they move towards."""

    momentum: float
    tracked: list[Tensor]
    running: list[Tensor]
    batch: list[Tensor]


@torch.no_grad()
def _apply(update: _Update) -> None:
    if update.running:
        torch._foreach_add_(update.tracked, 1)
        torch._foreach_lerp_(update.running, update.batch, update.momentum)


# Updates that wait for the end of a `deferred_statistics` block.
_deferred: ContextVar[list[_Update] | None] = ContextVar("deferred", default=None)


@contextmanager
def deferred_statistics() -> Iterator[None]:
    """Update the running statistics of all fused blocks at the end of the context, in few launches."""
    waiting: list[_Update] = []
    token = _deferred.set(waiting)
    try:
        yield
    finally:
        _deferred.reset(token)
    _apply_together(waiting)


def _apply_together(updates: Sequence[_Update]) -> None:
    together: dict[float, _Update] = {}
    seen: set[int] = set()
    rest: Sequence[_Update] = ()
    for i, update in enumerate(updates):
        norms = set(map(id, update.tracked))
        if norms & seen:  # a block that runs twice: one launch must not write a tensor twice
            rest = updates[i:]
            break
        seen |= norms
        whole = together.setdefault(update.momentum, _Update(update.momentum, [], [], []))
        for mine, its in zip(whole[1:], update[1:], strict=True):
            mine.extend(its)
    for update in together.values():
        _apply(update)
    if rest:
        _apply_together(rest)


def update_all_statistics(norms: Sequence[nn.BatchNorm2d], stats: Sequence[Tensor]) -> None:
    """Update the running statistics of several norms of equal momentum, now or with those of other blocks.

    Args:
        norms: The norms.
        stats: Their statistics in order, each of shape (3, n, C) for n norms: mean, anything, unbiased variance.
    """
    means = [mean for stat in stats for mean in stat[0].unbind()]
    variances = [variance for stat in stats for variance in stat[2].unbind()]
    update = _Update(cast(float, norms[0].momentum), [], [], [])
    for norm, mean, variance in zip(norms, means, variances, strict=True):
        if not norm.track_running_stats or norm.running_mean is None or norm.running_var is None:
            continue
        update.tracked.append(cast(Tensor, norm.num_batches_tracked))
        update.running.extend((norm.running_mean, norm.running_var))
        update.batch.extend((mean.to(norm.running_mean.dtype), variance.to(norm.running_var.dtype)))
    waiting = None if torch.compiler.is_compiling() else _deferred.get()
    if waiting is None:
        _apply(update)
    else:
        waiting.append(update)


def scaled_batch_norm(x: Tensor, norm: nn.BatchNorm2d, scale: Tensor) -> Tensor:
    """A BatchNorm and a factor on each of its channels, with the factor in the norm's own affine part.

    Its output is then nobody's to keep for the backward pass. The norm updates its statistics as in its forward.

    Args:
        x: Map of shape (B, C, H, W).
        norm: The norm.
        scale: Factor of each channel, of shape (C,).

    Returns:
        Map of shape (B, C, H, W).
    """
    if norm.momentum is None or not norm.affine:
        return norm(x) * scale[:, None, None]
    tracking = norm.training and norm.track_running_stats
    if tracking and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    known = tracking or not norm.training
    return F.batch_norm(
        x,
        norm.running_mean if known else None,
        norm.running_var if known else None,
        norm.weight * scale,
        norm.bias * scale,
        norm.training or norm.running_mean is None,
        norm.momentum,
        norm.eps,
    )


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are taken over several processes, on any device.

    PyTorch's own SyncBatchNorm takes GPU tensors only. In eval mode, and without torch.distributed, it is a
    plain BatchNorm2d. Made by :func:`synchronise_batch_norms`.
    """

    process_group: Group = None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x of shape (B, C, H, W)."""
        group = sync_group(self) if self.training else None
        if group is None:
            return super().forward(x)
        count = batch_count(x, group)
        y, mean, variance = _SyncBatchNorm.apply(x, self.weight, self.bias, self.eps, count, group)
        update_statistics(self, mean, variance, count)
        return y


class _SyncBatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gamma: Tensor, beta: Tensor, eps: float, count: int, group: Group
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = batch_stats(x, count, group)
        rstd = torch.rsqrt(variance + eps)
        scale = gamma * rstd
        ctx.mark_non_differentiable(mean, variance)
        ctx.save_for_backward(x, gamma, mean, rstd)
        ctx.count, ctx.group = count, group
        y = x * scale[:, None, None] + (beta - mean * scale)[:, None, None]
        return y.to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
        x, gamma, mean, rstd = ctx.saved_tensors
        dx, dgamma, dbeta = batch_norm_backward(grad, x, gamma, mean, rstd, ctx.count, ctx.group)
        return dx, dgamma.to(gamma.dtype), dbeta.to(gamma.dtype), None, None, None


def sync_group(norm: nn.BatchNorm2d) -> Group:
    """The processes that a norm's training statistics are taken over; None for this one alone."""
    if not isinstance(norm, SyncBatchNorm2d) or not dist.is_available() or not dist.is_initialized():
        return None
    return norm.process_group or dist.group.WORLD


def synchronise_batch_norms(model: nn.Module, process_group: Group = None) -> nn.Module:
    """Make every BatchNorm2d of a model take its training statistics over several processes, in place.

    The published recipes do not; it helps where a device holds few samples, as in detection.

    Args:
        model: The model.
        process_group: The processes; None for all.

    Returns:
        The model.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            # Same parameters, buffers and hooks: only how it takes statistics changes.
            module.__class__ = SyncBatchNorm2d
        if isinstance(module, SyncBatchNorm2d):
            module.process_group = process_group
    return model


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let BatchNorms use batch statistics but leave their running ones alone, as when a forward pass is repeated.

    Norms with momentum None (a plain average of all batches) are not covered.

    Args:
        model: The modules inside which to do so.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.momentum is not None]
    before = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, momentum, tracked in before:
            norm.momentum, norm.num_batches_tracked = momentum, tracked
