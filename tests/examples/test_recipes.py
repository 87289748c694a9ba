"""The recipes of the examples: each network takes the maps of its data."""

import pytest
import torch

from unireplknet.recipes import RECIPES
from unireplknet_examples import recipes

NAMES = (
    "emoji",
    "furniture",
    "keywords",
    "language",
    "mnist",
    "motion",
    "scene_boxes",
    "scenes",
    "speakers",
    "weather",
)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_registered(name: str) -> None:
    assert RECIPES[name] is getattr(recipes, name)


@pytest.mark.parametrize("name", ["mnist", "emoji"])
def test_images(name: str) -> None:
    recipe = RECIPES[name]()
    size = recipe.input.size
    model = recipe.model.build(recipe.input.channels, "abcdefghij").eval()
    assert model(torch.zeros(1, recipe.input.channels, size, size)).shape == (1, 10)


@pytest.mark.parametrize("name", ["keywords", "language", "speakers"])
def test_sounds(name: str) -> None:
    recipe = RECIPES[name]()
    wave = torch.randn(recipe.input.rate)
    sample = recipe.augment.bind(recipe.input)(wave)
    assert sample.shape == recipe.input.to_map(wave).shape == (1, recipe.input.frames, recipe.input.mels)
    assert recipe.model.build(1, "abcdefghij").eval()(sample[None]).shape == (1, 10)


def test_points() -> None:
    recipe = recipes.furniture()
    inputs, cloud = recipe.input, torch.rand(100, 3)
    assert recipe.augment.bind(inputs)(cloud).shape == inputs.to_map(cloud).shape
    views = inputs.to_views(cloud)  # type: ignore[attr-defined]
    assert views.shape == (inputs.rotations, *inputs.to_map(cloud).shape)  # type: ignore[attr-defined]
    assert recipe.model.build(inputs.channels, "abcdefghij").eval()(views).shape == (len(views), 10)


def test_series() -> None:
    model = recipes.weather().build(("EWR", "JFK", "LGA"))
    assert model(torch.zeros(2, 7 + 2, 48, 3)).shape == (2, 24, 3, 2)


def test_videos() -> None:
    recipe = recipes.motion()
    model = recipe.model.build(recipe.input.channels, "abcdefgh").eval()
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 8)


def test_masks() -> None:
    model = recipes.scenes().build([str(i) for i in range(9)]).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 9, 96, 96)


def test_boxes() -> None:
    model = recipes.scene_boxes().build([str(i) for i in range(8)]).eval()
    with torch.no_grad():
        [found] = model([torch.zeros(3, 96, 96)])
    assert found.keys() == {"boxes", "labels", "scores"}
