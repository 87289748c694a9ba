import pytest
import torch

from unireplknet.recipes import RECIPES, segment
from unireplknet.tasks.segment.task import SegmentHead
from unireplknet.training.optim import build_optimizer, build_schedule

PUBLISHED = [recipe for recipe in segment.ALL if recipe.__name__ not in ("masks", "scenes")]


def test_there_is_a_recipe_for_every_published_size_and_crop() -> None:
    recipes = [recipe() for recipe in PUBLISHED]
    sizes = [(recipe.model.name.removeprefix("unireplknet_"), recipe.input.size) for recipe in recipes]
    assert sizes == [("t", 512), ("s", 512), ("s", 512), ("s", 640), ("b", 640), ("l", 640), ("xl", 640)]
    assert all("Not run." in (recipe.__doc__ or "") for recipe in PUBLISHED)
    assert {recipe.name for recipe in recipes} <= RECIPES.keys()


SETTINGS = {
    "ade20k_t": ("unireplknet_t_in1k_224_acc83.21", 0.2, 1.0, 512),
    "ade20k_s": ("unireplknet_s_in1k_224_acc83.91", 0.3, 0.9, 512),
    "ade20k_s_in22k": ("unireplknet_s_in22k_to_in1k_384_acc86.44", 0.3, 0.9, 512),
    "ade20k_s_in22k_640": ("unireplknet_s_in22k_to_in1k_384_acc86.44", 0.3, 0.9, 640),
    "ade20k_b_in22k": ("unireplknet_b_in22k_to_in1k_384_acc87.40", 0.3, 0.9, 640),
    "ade20k_l_in22k": ("unireplknet_l_in22k_to_in1k_384_acc87.88", 0.4, 0.85, 640),
    "ade20k_xl_in22k": ("unireplknet_xl_in22k_to_in1k_384_acc87.96", 0.4, 0.85, 640),  # of which none is published
}
"""First weights, drop path, layer-wise decay and crop of the authors' configurations."""


@pytest.mark.parametrize("function", PUBLISHED, ids=lambda f: f.__name__)
def test_settings_are_the_published_ones(function) -> None:
    recipe = function()
    weights, drop_path, decay, size = SETTINGS[recipe.name]
    model, inputs, augment, optim = recipe.model, recipe.input, recipe.augment, recipe.optim
    assert model.weights.endswith(f"/{weights}.pth")
    assert (model.drop_path, recipe.head) == (drop_path, SegmentHead("upernet", 512, 0.4))
    assert (inputs.size, inputs.short, inputs.long, inputs.inference) == (size, size, 4 * size, "whole")
    assert inputs.scales == ((0.5, 0.75, 1.0, 1.25, 1.5, 1.75) if size == 512 else (0.75, 1.0, 1.25))
    assert (augment.scale, augment.flip, augment.distort, augment.largest) == ((0.5, 2.0), 0.5, True, 0.75)
    assert (optim.betas, optim.weight_decay, optim.clip_grad, optim.ema) == ((0.9, 0.999), 0.05, 0, 0)
    assert recipe.trainer.sync_batchnorm
    model.weights = ""
    with torch.device("meta"):
        groups = build_optimizer(recipe.build([str(i) for i in range(150)]), optim).param_groups
    rates = {group["lr"] / optim.lr for group in groups}
    # Their 12 groups and what is above give the stem the 13th power; the decoder learns at the full rate.
    assert (min(rates), max(rates)) == (pytest.approx(decay**13, rel=1e-3), 1.0)


@pytest.mark.parametrize("function", PUBLISHED, ids=lambda f: f.__name__)
def test_steps_and_rates_are_the_published_ones(function) -> None:
    """160,000 steps of 16 of ADE20K's 20,210 images; 1,500 steps of warm-up under a straight line."""
    recipe = function()
    optim, steps = recipe.optim, 20_210 // recipe.optim.batch_size
    assert steps * optim.epochs == pytest.approx(160_000, rel=0.005)
    assert optim.warmup_epochs * steps == pytest.approx(1_500, abs=5)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=optim.lr)
    schedule, rate = build_schedule(optimizer, optim, steps), schedule_rate
    total = steps * optim.epochs
    assert rate(schedule, 3_000) == pytest.approx(1e-4 * (1 - 3_000 / total))
    assert rate(schedule, 749) == pytest.approx(1e-4 * 750 / 1_504 * (1 - 749 / total), rel=0.01)
    assert rate(schedule, total) == 0
    assert recipe.trainer.select == "last"  # the validation part chooses nothing
    assert optim.device_batch(recipe.trainer.devices) == 2


def schedule_rate(schedule: torch.optim.lr_scheduler.LambdaLR, step: int) -> float:
    return 1e-4 * schedule.lr_lambdas[0](step)


@pytest.mark.parametrize("function", segment.ALL, ids=lambda f: f.__name__)
def test_the_networks_take_their_maps(function) -> None:
    recipe = function()
    recipe.model.weights = ""
    with torch.device("meta"):
        model = recipe.build([str(i) for i in range(150)]).eval()
        assert model(torch.zeros(1, 3, 96, 160)).shape == (1, 150, 96, 160)
    assert (model.auxiliary is not None) == (recipe.head.auxiliary == 0.4)
