"""Optimiser and learning rate."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from unireplknet.training.recipe import Optim


def build_optimizer(model: nn.Module, optim: Optim) -> Optimizer:
    """AdamW with timm's parameter groups: no weight decay on biases and other vectors."""
    from timm.optim import param_groups_weight_decay

    return AdamW(param_groups_weight_decay(model, optim.weight_decay), lr=optim.lr)


def build_schedule(optimizer: Optimizer, optim: Optim, steps_per_epoch: int) -> LambdaLR:
    """The learning rate of each step, a function of the step alone."""
    warmup = round(optim.warmup_epochs * steps_per_epoch)
    total = optim.epochs * steps_per_epoch
    floor = optim.min_lr / optim.lr
    return LambdaLR(optimizer, lambda step: cosine_factor(step, warmup, total, floor))


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
