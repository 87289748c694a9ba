import torch

from unireplknet.recipes.video import k400


def test_the_published_recipe() -> None:
    recipe = k400()
    assert recipe.input.tile(torch.zeros(16, 3, 224, 224)).shape == (3, 896, 896)
    assert (recipe.input.clips, recipe.input.crops, recipe.input.stride) == (5, 3, 4)
    assert recipe.optim.device_batch(8) == 4
    with torch.device("meta"):
        model = recipe.model.build(3, [str(i) for i in range(400)])
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 56.0
