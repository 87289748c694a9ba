import pytest
import torch

from unireplknet.recipes import series
from unireplknet.tasks.forecast.network import Forecaster


@pytest.mark.parametrize("function", [series.global_temp, series.global_wind])
def test_the_published_network_is_the_papers(function: object) -> None:
    """350 groups of 11 stations, each a map of 192 x 192 = 48 x 768 numbers, through S with 11 x 11 at the end."""
    recipe = function()  # type: ignore[operator]
    with torch.device("meta"):
        model = recipe.build(tuple(str(i) for i in range(3850)))
        assert isinstance(model, Forecaster)
        assert model.to_maps(torch.zeros(1, 1 + 6, 48, 3850)).shape == (350, 1, 192, 192)
    assert model.embedding.in_channels == 2 * 11
    assert model.embedding.out_channels == 768
    sizes = [[block.dwconv.kernel_size[0] for block in stage.blocks] for stage in model.backbone.stages]
    assert sizes == [[3] * 3, [13] * 3, [13, 3, 3] * 9, [11] * 3]
    assert recipe.input.factor == 0.1
    assert recipe.optim.epochs == 10
    assert (recipe.optim.lr, recipe.optim.batch_size, recipe.model.drop_path) == (1e-4, 1, 0.4)
    assert "Not run" in (function.__doc__ or "")


def test_the_recipe_for_your_own_series_takes_its_maps() -> None:
    recipe = series.series()
    assert recipe.build("ab").eval()(torch.zeros(2, 1, *recipe.input.map_size)).shape == (2, 2)  # type: ignore[attr-defined]
