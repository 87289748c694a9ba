"""The recipes of point clouds: the networks take the maps, and the published ones say what the paper says."""

import pytest
import torch

from unireplknet.models.published import VARIANT_ROWS
from unireplknet.recipes import points


@pytest.mark.parametrize("function", points.ALL, ids=lambda function: function.__name__)
def test_the_network_takes_the_map(function: object) -> None:
    recipe = function()  # type: ignore[operator]
    inputs = recipe.input
    recipe.model.dims = (8, 16, 32, 64)
    model = recipe.model.build(inputs.channels, "abcdefghij").eval()
    cloud = torch.rand(100, 3)
    assert recipe.modality == "points"
    assert recipe.augment.bind(inputs)(cloud).shape == inputs.to_map(cloud).shape
    assert inputs.to_views(cloud).shape == (inputs.rotations, *inputs.to_map(cloud).shape)
    with torch.inference_mode():
        assert model(inputs.to_map(cloud)[None]).shape == (1, 10)


@pytest.mark.parametrize("recipe", [points.modelnet40(), points.scanobjectnn()], ids=lambda recipe: recipe.name)
def test_published_settings(recipe: object) -> None:
    optim = recipe.optim  # type: ignore[attr-defined]
    assert (optim.epochs, optim.batch_size, optim.lr, optim.weight_decay) == (300, 16, 5e-4, 0.05)
    assert (optim.label_smoothing, optim.warmup_epochs, optim.min_lr) == (0.2, 0, 1e-6)
    assert recipe.model.drop_path == 0.4  # type: ignore[attr-defined]
    assert recipe.model.name in {row.label for row in VARIANT_ROWS}  # type: ignore[attr-defined]
    cloud = torch.rand(5000, 3)
    assert recipe.input.to_map(cloud).shape == (3, 224, 224)  # type: ignore[attr-defined]
