import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from unireplknet.data.dataset import Draw, MapDataset, Sample, collate
from unireplknet.data.sampler import EpochSampler
from unireplknet.data.split import Split
from unireplknet.modalities.image import ImageAugment, ImageInput


def noisy(raw: int) -> torch.Tensor:
    """Draws from all three generators that augmentation libraries use."""
    return torch.tensor([[[raw + torch.rand(()).item(), random.random(), np.random.rand()]]])  # noqa: NPY002


def numbers(count: int, seed: int = 0) -> MapDataset:
    return MapDataset(Split(list(range(count)), np.zeros(count, np.int64)), float, noisy, seed)


def test_augmentation_depends_on_seed_epoch_and_index_only() -> None:
    data = numbers(4)
    first = data[Draw(3, 2)].map
    data[Draw(0, 1)]
    torch.rand(7)
    assert torch.equal(first, data[Draw(3, 2)].map)
    assert torch.equal(first, numbers(4)[Draw(3, 2)].map)
    for other in (data[Draw(4, 2)], data[Draw(3, 1)], numbers(4, seed=1)[Draw(3, 2)]):
        assert (other.map != first).all()


def test_augmentation_leaves_the_global_generators_alone() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    numbers(2)[Draw(0, 0)]
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()  # noqa: NPY002


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_what_is_drawn(workers: int) -> None:
    def epoch(count: int) -> torch.Tensor:
        sampler = EpochSampler(7, shuffle=True, seed=5)
        loader = DataLoader(numbers(7), 3, sampler=sampler, num_workers=count, collate_fn=collate)
        return torch.cat([batch.maps for batch in loader])

    assert torch.equal(epoch(0), epoch(workers))


def test_data_sets_can_be_sent_to_workers() -> None:
    """Where processes are not forked, as on macOS and Windows, they arrive as pickles."""
    inputs = ImageInput(size=8)
    transform = ImageAugment(flip=0.5, rotate=3, policy="rand-m9").bind(inputs)
    inputs.to_map(Image.new("RGB", (9, 9)))
    data = MapDataset(Split([], np.zeros(0, np.int64)), inputs.read, transform)
    image = Image.fromarray(np.arange(243, dtype=np.uint8).reshape(9, 9, 3))
    assert pickle.loads(pickle.dumps(data)).to_map(image).shape == (3, 8, 8)


def test_an_unreadable_sample_becomes_a_problem_that_names_the_file(tmp_path: Path) -> None:
    def read(path: Path) -> float:
        raise OSError("no such luck")

    data = MapDataset(Split([tmp_path / "bad.x"], np.array([3])), read, noisy)
    sample = data[Draw(0, 0)]
    assert sample.map is None
    assert sample.problem == f"{tmp_path / 'bad.x'}: no such luck"


def test_collate_leaves_out_what_has_no_map() -> None:
    batch = collate(
        [Sample(torch.ones(1, 2, 2), 4, 7), Sample(None, 1, 8, "x: broken"), Sample(torch.zeros(1, 2, 2), 5, 9)]
    )
    assert batch.maps.shape == (2, 1, 2, 2)
    assert batch.labels.tolist() == [4, 5]
    assert batch.indices.tolist() == [7, 9]
    assert batch.problems == ["x: broken"]
    assert len(collate([Sample(None, 1, 8, "x: broken")]).labels) == 0
