from pathlib import Path

import pytest

from unireplknet.errors import UserError
from unireplknet.recipes import RECIPES, find_recipe


@pytest.mark.parametrize("name", RECIPES)
def test_docstrings_say_what_a_newcomer_asks(name: str) -> None:
    recipe, doc = RECIPES[name](), RECIPES[name].__doc__ or ""
    assert recipe.name == name
    for word in ("Command:", f"unireplknet train {name}", "Hardware:", "Time:", "Score:"):
        assert word in doc


@pytest.mark.parametrize("name", ["digits", "folder"])  # test_imagenet.py has the large ones
def test_the_network_can_be_built_and_takes_the_map(name: str) -> None:
    import torch

    recipe = RECIPES[name]()
    model = recipe.model.build(recipe.input.channels, "abcdefghij").eval()
    size = recipe.input.size
    assert model(torch.zeros(1, recipe.input.channels, size, size)).shape == (1, 10)


def test_the_network_of_the_sound_recipe_takes_its_map() -> None:
    import torch

    recipe = RECIPES["speech_commands"]()
    wave = torch.randn(recipe.input.rate)
    sample = recipe.augment.bind(recipe.input)(wave)
    assert sample.shape == recipe.input.to_map(wave).shape == (1, recipe.input.frames, recipe.input.mels)
    with torch.device("meta"):
        model = recipe.model.build(1, "abcdefghij").eval()
        assert model(torch.zeros(1, *sample.shape)).shape == (1, 10)


def test_published_sizes_of_the_sound_recipe() -> None:
    """Counted from the authors' network: 55.7 M parameters with 35 classes in training form."""
    import torch

    with torch.device("meta"):
        model = RECIPES["speech_commands"]().model.build(1, [str(i) for i in range(35)])
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(55.7, abs=0.06)


def test_recipes_are_found_by_name_file_or_folder(tmp_path: Path) -> None:
    recipe = find_recipe("digits").override(["--optim.lr", "0.5"])
    recipe.save(tmp_path / "config.yaml")
    assert find_recipe(str(tmp_path)) == find_recipe(str(tmp_path / "config.yaml")) == recipe


def test_wrong_names_suggest_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe 'digit'; did you mean digits?"):
        find_recipe("digit")
    with pytest.raises(
        UserError,
        match=r"no recipe 'x'; there are digits, folder, .*, in1k_a, .*, mnist, .*, or the config.yaml of a run",
    ):
        find_recipe("x")
    with pytest.raises(UserError, match=r"is not the config.yaml of a run"):
        find_recipe(str(tmp_path))
