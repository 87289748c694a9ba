import numpy as np
import pytest

from unireplknet.data.sampler import EpochSampler
from unireplknet.data.split import Split
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageAugment, ImageInput
from unireplknet.training.loader import build_loader, go_on, steps_per_epoch
from unireplknet.training.recipe import Optim, Recipe


def recipe(batch_size: int, accumulate: int = 1) -> Recipe:
    return Recipe(
        "r",
        input=ImageInput(size=4, channels=1, fit="squash", mean=(0.0,), std=(1.0,)),
        augment=ImageAugment(),
        optim=Optim(batch_size=batch_size, accumulate=accumulate),
    )


def split(count: int) -> Split:
    return Split([np.full((4, 4), i, np.uint8) for i in range(count)], np.arange(count) % 3)


@pytest.mark.parametrize(("count", "batch", "accumulate", "world"), [(37, 8, 1, 2), (37, 12, 3, 2), (8, 8, 2, 4)])
def test_processes_and_parts_together_take_what_one_process_takes(
    count: int, batch: int, accumulate: int, world: int
) -> None:
    whole = [set(b.indices.tolist()) for b in build_loader(recipe(batch), split(count), augment=True)]
    parts = [
        [b.indices.tolist() for b in build_loader(recipe(batch, accumulate), split(count), True, rank, world)]
        for rank in range(world)
    ]
    assert {len(part) for part in parts} == {len(whole) * accumulate}
    assert len(whole) == steps_per_epoch(recipe(batch), split(count))
    steps = [
        [i for part in parts for b in part[k * accumulate : (k + 1) * accumulate] for i in b] for k in range(len(whole))
    ]
    assert [set(step) for step in steps] == whole
    assert all(len(step) == batch for step in steps)


@pytest.mark.parametrize("count", [1, 7, 8, 37])
def test_evaluation_takes_every_sample_once(count: int) -> None:
    seen = [
        i
        for rank in range(3)
        for b in build_loader(recipe(6), split(count), rank=rank, world=3)
        for i in b.indices.tolist()
    ]
    assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_loader_goes_on_within_an_epoch_and_leaves_the_next_one_alone(workers: int) -> None:
    settings = recipe(8, accumulate=2)
    settings.data.workers = workers
    loader = build_loader(settings, split(37), augment=True)
    assert isinstance(loader.sampler, EpochSampler)

    def epoch(number: int) -> list[list[int]]:
        loader.sampler.set_epoch(number)
        return [b.indices.tolist() for b in loader]

    third, fourth = epoch(2), epoch(3)
    go_on(loader, 2, 3)
    assert [b.indices.tolist() for b in loader] == third[3:]  # before anyone sets the epoch
    assert epoch(3) == fourth


def test_a_small_set_is_one_small_batch_unless_it_has_to_be_divided() -> None:
    assert [len(b.labels) for b in build_loader(recipe(8), split(5), augment=True)] == [5]
    with pytest.raises(UserError, match=r"optim.batch_size is 8, there are 5 samples to train with"):
        build_loader(recipe(8, accumulate=2), split(5), augment=True)
