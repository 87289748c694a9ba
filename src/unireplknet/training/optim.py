"""Optimiser and learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from unireplknet.nn.layers import GlobalResponseNorm
from unireplknet.training.recipe import Optim


def build_optimizer(model: nn.Module, optim: Optim) -> Optimizer:
    """AdamW with timm's parameter groups: no weight decay on biases and other vectors.

    Args:
        model: The network. Its ``group_matcher`` says which layer is which, for layer-wise decay of the learning rate.
        optim: The settings.
    """
    from timm.optim import param_groups_layer_decay, param_groups_weight_decay

    if optim.layer_decay == 1:
        groups = param_groups_weight_decay(model, optim.weight_decay)
    else:
        groups = param_groups_layer_decay(model, optim.weight_decay, layer_decay=optim.layer_decay)
    if optim.decay_grn:
        groups = _decay_too(
            groups,
            [p for m in model.modules() if isinstance(m, GlobalResponseNorm) for p in m.parameters()],
            optim.weight_decay,
        )
    # timm's schedulers would apply lr_scale; PyTorch's know only the rate of a group.
    scaled = [{**group, "lr": optim.lr * group.get("lr_scale", 1.0)} for group in groups]
    return AdamW(scaled, lr=optim.lr, betas=optim.betas)


def _decay_too(
    groups: Sequence[dict[str, Any]], parameters: Sequence[Tensor], weight_decay: float
) -> list[dict[str, Any]]:
    """Move parameters from groups without weight decay to groups with it, of the same learning rate."""
    moved = {id(p) for p in parameters}
    split = []
    for group in groups:
        if group["weight_decay"]:
            split.append(group)
            continue
        stay, go = ([p for p in group["params"] if (id(p) in moved) is chosen] for chosen in (False, True))
        split += [{**group, "params": stay}] if stay else []
        split += [{**group, "params": go, "weight_decay": weight_decay}] if go else []
    return split


def rate_of(optimizer: Optimizer) -> float:
    """The learning rate of the layers that learn fastest: with layer-wise decay, earlier ones have less."""
    return max(group["lr"] for group in optimizer.param_groups)


def build_schedule(optimizer: Optimizer, optim: Optim, steps_per_epoch: int) -> LambdaLR:
    """The learning rate of each step, a function of the step alone."""
    return LambdaLR(optimizer, lr_factor(optim, steps_per_epoch))


def lr_factor(optim: Optim, steps_per_epoch: int) -> Callable[[int], float]:
    """From the number of steps taken to what the highest learning rate is multiplied with."""
    warmup, total = warmup_steps(optim, steps_per_epoch), optim.epochs * steps_per_epoch
    floor = optim.min_lr / optim.lr
    if optim.epoch_decay:
        return lambda step: _epoch_factor(step, warmup, steps_per_epoch, optim)
    if optim.milestones:
        return lambda step: _step_factor(step, warmup, steps_per_epoch, optim.milestones)
    if optim.power:
        return lambda step: _power_factor(step, warmup, total, floor, optim.power)
    return lambda step: cosine_factor(step, warmup, total, floor)


def warmup_steps(optim: Optim, steps_per_epoch: int) -> int:
    """Steps in which the learning rate rises."""
    return round(optim.warmup_epochs * steps_per_epoch)


def _epoch_factor(step: int, warmup: int, steps_per_epoch: int, optim: Optim) -> float:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return optim.epoch_decay ** max(0, step // steps_per_epoch + 1 - optim.steady_epochs)


def _step_factor(step: int, warmup: int, steps_per_epoch: int, milestones: Sequence[int]) -> float:
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.1 ** sum(step >= epoch * steps_per_epoch for epoch in milestones)


def _power_factor(step: int, warmup: int, total: int, floor: float, power: float) -> float:
    """The rise of :func:`cosine_factor` on a decay that begins with the first step, as mmsegmentation has it."""
    rise = min(1.0, (step + 1) / (warmup + 1))
    return rise * (floor + (1 - floor) * max(0.0, 1 - step / total) ** power)


def cosine_factor(step: int, warmup: int, total: int, floor: float) -> float:
    """Linear rise from near 0 to 1 over ``warmup`` steps, then half a cosine down to ``floor`` at ``total``.

    Args:
        step: Number of steps taken.
        warmup: Steps of the rise.
        total: Steps of the whole run.
        floor: Factor at the end.

    Returns:
        What to multiply the highest learning rate with.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
