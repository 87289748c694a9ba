import itertools
import math

import pytest
import timm
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR

from unireplknet.nn.layers import GlobalResponseNorm
from unireplknet.recipes import find_recipe
from unireplknet.training.optim import build_optimizer, build_schedule, cosine_factor, rate_of
from unireplknet.training.recipe import Optim


def test_after_the_warm_up_it_is_torchs_cosine() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = CosineAnnealingLR(optimizer, T_max=40, eta_min=0.1)
    for step in range(10, 51):
        assert cosine_factor(step, 10, 50, 0.1) == pytest.approx(schedule.get_last_lr()[0], abs=1e-9)
        optimizer.step()
        schedule.step()


def test_warm_up_rises_by_equal_steps_to_the_highest_rate() -> None:
    factors = [cosine_factor(step, 4, 10, 0.0) for step in range(5)]
    assert factors == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert cosine_factor(10, 4, 10, 0.0) == pytest.approx(0)
    assert cosine_factor(0, 0, 1, 0.0) == 1


def test_schedule_counts_epochs_in_steps_and_ends_at_min_lr() -> None:
    optim = Optim(epochs=3, lr=0.1, min_lr=0.001, warmup_epochs=1, weight_decay=0.0)
    optimizer = build_optimizer(nn.Linear(2, 2), optim)
    schedule = build_schedule(optimizer, optim, steps_per_epoch=5)
    rates = []
    for _ in range(16):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates.index(max(rates)) == 5
    assert max(rates) == pytest.approx(0.1)
    assert rates[15] == pytest.approx(0.001)
    assert all(math.isfinite(rate) for rate in rates)


def test_vectors_are_not_decayed() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    groups = build_optimizer(model, Optim(weight_decay=0.05)).param_groups
    decayed = {p for group in groups if group["weight_decay"] for p in group["params"]}
    assert decayed == {model[0].weight, model[2].weight}
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def tiny_network() -> nn.Module:
    return find_recipe("digits").model.build(1, "ab")


def test_published_groups_decay_grn_as_well() -> None:
    model = tiny_network()
    grn = {p for m in model.modules() if isinstance(m, GlobalResponseNorm) for p in m.parameters()}
    for layer_decay in (1.0, 0.9):
        plain, published = (
            {
                p: (group["lr"], group["weight_decay"])
                for group in build_optimizer(
                    model, Optim(lr=0.1, weight_decay=0.05, layer_decay=layer_decay, decay_grn=decay_grn)
                ).param_groups
                for p in group["params"]
            }
            for decay_grn in (False, True)
        )
        assert plain.keys() == published.keys() == set(model.parameters())
        for p in plain:
            rate, decay = plain[p]
            assert decay == (0.05 if p.ndim > 1 else 0)
            assert published[p] == (rate, 0.05 if p in grn else decay)


def test_rates_fall_block_by_block_from_the_head_to_the_stem() -> None:
    model = tiny_network()
    optimizer = build_optimizer(model, Optim(lr=0.1, min_lr=0.0, layer_decay=0.5, warmup_epochs=0, epochs=1))
    rate = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    order = ["stem", "stages.0.blocks.0", "stages.1.blocks.0", "stages.2.blocks.0", "stages.2.blocks.1"]
    order += ["stages.3.blocks.0", "head"]
    rates = []
    for name in order:
        (unique,) = {rate[id(p)] for p in model.get_submodule(name).parameters()}
        rates.append(unique)
    assert rates[-1] == pytest.approx(0.1)
    assert all(later == pytest.approx(2 * earlier) for earlier, later in itertools.pairwise(rates))
    schedule = build_schedule(optimizer, Optim(lr=0.1, min_lr=0.0, warmup_epochs=0, epochs=1), steps_per_epoch=2)
    optimizer.step()
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx(
        [g["initial_lr"] / 2 for g in optimizer.param_groups]
    )


def test_decay_by_epochs_begins_after_the_steady_ones() -> None:
    """The published audio training: 2.5e-4 for five epochs, then 0.85 of it from epoch to epoch, 5e-11 in the last."""
    optim = Optim(epochs=100, lr=2.5e-4, warmup_epochs=0, epoch_decay=0.85, steady_epochs=5, betas=(0.95, 0.999))
    optimizer = build_optimizer(torch.nn.Linear(2, 2), optim)
    schedule = build_schedule(optimizer, optim, steps_per_epoch=3)
    rates = []
    for _ in range(300):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:15] == [2.5e-4] * 15
    assert rates[15:18] == pytest.approx([2.5e-4 * 0.85] * 3)
    assert rates[-1] == pytest.approx(4.9e-11, rel=0.01)
    assert optimizer.param_groups[0]["betas"] == (0.95, 0.999)


def test_the_rate_that_is_told_is_that_of_the_last_layers() -> None:
    model = timm.create_model("test_unireplknet", num_classes=3)
    optimizer = build_optimizer(model, Optim(lr=0.1, layer_decay=0.5))
    assert optimizer.param_groups[0]["lr"] < 0.01
    assert rate_of(optimizer) == 0.1


def test_a_polynomial_decay_is_torchs_under_the_warm_up() -> None:
    optim = Optim(epochs=4, lr=0.1, min_lr=0.0, warmup_epochs=0, power=0.9)
    optimizer = build_optimizer(nn.Linear(2, 2), optim)
    schedule = build_schedule(optimizer, optim, steps_per_epoch=5)
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    expected = torch.optim.lr_scheduler.PolynomialLR(other, total_iters=20, power=0.9)
    optim.warmup_epochs = 1
    warm = build_schedule(build_optimizer(nn.Linear(2, 2), optim), optim, steps_per_epoch=5)
    for step in range(21):
        assert schedule.get_last_lr()[0] == pytest.approx(expected.get_last_lr()[0], abs=1e-9)
        rise = min(1, (step + 1) / 6)
        assert warm.lr_lambdas[0](step) == pytest.approx(rise * schedule.lr_lambdas[0](step))
        optimizer.step()
        other.step()
        schedule.step()
        expected.step()
