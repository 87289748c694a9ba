"""What all modalities have in common."""

import pickle

import pytest

from unireplknet.data.dataset import MapDataset
from unireplknet.data.split import Split
from unireplknet.modalities import MODALITIES
from unireplknet.recipes import RECIPES


@pytest.mark.parametrize("name", MODALITIES)
def test_augmentations_can_be_sent_to_loader_workers(name: str) -> None:
    """On macOS and Windows these are new processes, which get a data set in pickled form."""
    recipes = [recipe for recipe in (make() for make in RECIPES.values()) if recipe.modality == name]
    assert recipes
    for recipe in recipes:
        dataset = MapDataset(Split([], []), recipe.input.read, recipe.augment.bind(recipe.input))
        assert pickle.loads(pickle.dumps(dataset)).seed == dataset.seed
