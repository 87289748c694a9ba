import pytest
import torch

from unireplknet.nn.batch_stats import synchronise_batch_norms
from unireplknet.recipes import RECIPES, detect
from unireplknet.training.optim import build_optimizer, build_schedule

PUBLISHED = [recipe for recipe in detect.ALL if recipe.__name__.startswith("coco")]


def test_there_is_a_recipe_for_every_published_size() -> None:
    recipes = [recipe() for recipe in PUBLISHED]
    rows = [(r.model.name.removeprefix("unireplknet_"), r.model.drop_path, bool(r.optim.ema)) for r in recipes]
    larger = [("s", 0.5, True), ("b", 0.6, True), ("l", 0.7, True), ("xl", 0.7, True)]
    assert rows == [("t", 0.3, False), ("s", 0.5, False), *larger]
    for recipe in PUBLISHED:
        assert "Not run." in (recipe.__doc__ or "")
        assert "where the paper has Cascade Mask R-CNN" in (recipe.__doc__ or "")
    assert {recipe.name for recipe in recipes} <= RECIPES.keys()


@pytest.mark.parametrize("function", PUBLISHED, ids=lambda f: f.__name__)
def test_steps_and_rates_are_the_published_ones(function) -> None:
    """36 epochs of COCO's 118,287 images, 500 steps of warm-up, a tenth after 27 and again after 33."""
    recipe = function()
    optim, steps = recipe.optim, 118_287 // recipe.optim.batch_size
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=optim.lr)
    [factor] = build_schedule(optimizer, optim, steps).lr_lambdas
    assert optim.epochs == 36
    assert factor(249) == pytest.approx(0.5, abs=0.01)
    assert factor(501) == factor(27 * steps - 1) == 1
    assert factor(27 * steps) == factor(33 * steps - 1) == pytest.approx(0.1)
    assert factor(33 * steps) == factor(36 * steps - 1) == pytest.approx(0.01)
    assert optim.device_batch(recipe.trainer.devices) == 2
    assert recipe.trainer.select == "last"


SETTINGS = {
    "coco_t": ("unireplknet_t_in1k_224_acc83.21", 0.3, 0.8, 0),
    "coco_s": ("unireplknet_s_in1k_224_acc83.91", 0.5, 0.8, 0),
    "coco_s_in22k": ("unireplknet_s_in22k_to_in1k_384_acc86.44", 0.5, 0.8, 0.9999),
    "coco_b_in22k": ("unireplknet_b_in22k_to_in1k_384_acc87.40", 0.6, 0.8, 0.9999),
    "coco_l_in22k": ("unireplknet_l_in22k_to_in1k_384_acc87.88", 0.7, 0.7, 0.9999),
    "coco_xl_in22k": ("unireplknet_xl_in22k_to_in1k_384_acc87.96", 0.7, 0.7, 0.9999),
}
"""First weights, drop path, layer-wise decay and running average of the authors' configurations."""


@pytest.mark.parametrize("function", PUBLISHED, ids=lambda f: f.__name__)
def test_settings_are_the_published_ones(function) -> None:
    recipe = function()
    weights, drop_path, decay, ema = SETTINGS[recipe.name]
    head, model, inputs, augment, optim = recipe.head, recipe.model, recipe.input, recipe.augment, recipe.optim
    assert model.weights.endswith(f"/{weights}.pth")
    assert (model.drop_path, head.width, head.head_width, optim.ema) == (drop_path, 256, 1024, ema)
    assert head.anchors == (32, 64, 128, 256, 512)
    assert (inputs.short, inputs.long, inputs.masks) == (800, 1333, True)
    assert [side * inputs.short for side in augment.scale] == [480, 800]
    assert (augment.flip, augment.crop, augment.distort) == (0.5, 0.5, False)
    assert (optim.lr, optim.betas, optim.weight_decay, optim.clip_grad) == (1e-4, (0.9, 0.999), 0.05, 0)
    model.weights = ""
    with torch.device("meta"):
        groups = build_optimizer(recipe.build([str(i) for i in range(80)]), optim).param_groups
    rates = [group["lr"] / optim.lr for group in groups]
    # Their 12 groups and what is above give the stem the 13th power; the heads learn at the full rate.
    assert (min(rates), max(rates)) == (pytest.approx(decay**13, rel=1e-3), 1.0)


def test_the_box_head_has_synchronised_statistics() -> None:
    """Table 6 counts three box heads of a cascade: one is less, and the backbone is the same."""
    recipe = detect.coco_t()
    recipe.model.weights = ""
    with torch.device("meta"):
        model = recipe.build([str(i) for i in range(80)])
    synchronise_batch_norms(model)
    kinds = [type(m).__name__ for m in model.network.roi_heads.box_head.modules() if "BatchNorm" in type(m).__name__]
    assert kinds == ["SyncBatchNorm2d"] * 4
    assert 50e6 < sum(p.numel() for p in model.parameters()) < 89e6


def test_the_recipe_for_your_own_boxes_takes_its_maps() -> None:
    model = detect.boxes().build([str(i) for i in range(8)]).eval()
    with torch.no_grad():
        [found] = model([torch.zeros(3, 96, 96)])
    assert found.keys() == {"boxes", "labels", "scores"}
