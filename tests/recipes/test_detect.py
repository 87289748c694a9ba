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


@pytest.mark.parametrize(("function", "decay"), [(detect.coco_t, 0.8), (detect.coco_l_in22k, 0.7)])
def test_the_stem_learns_at_the_published_rate(function, decay: float) -> None:
    recipe = function()
    recipe.model.weights = ""
    with torch.device("meta"):
        model = recipe.build([str(i) for i in range(80)])
        groups = build_optimizer(model, recipe.optim).param_groups
    assert min(group["lr"] for group in groups) / recipe.optim.lr == pytest.approx(decay**13, rel=1e-3)


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


@pytest.mark.parametrize("function", [detect.boxes, detect.scene_boxes], ids=lambda f: f.__name__)
def test_small_recipes_take_their_maps(function) -> None:
    model = function().build([str(i) for i in range(8)]).eval()
    with torch.no_grad():
        [found] = model([torch.zeros(3, 96, 96)])
    assert found.keys() == {"boxes", "labels", "scores"}
