import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader

from unireplknet.data.dataset import Draw, MapDataset, Sample, collate
from unireplknet.data.files import distinct_stems, find_files, find_inputs
from unireplknet.data.sampler import EpochSampler
from unireplknet.data.sources.folder import load_folder, load_grouped
from unireplknet.data.split import Labelled, Split, split_data
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageAugment, ImageInput


def tree(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(file.encode())
    return root


def unsplit(counts: list[int]) -> Labelled:
    labels = np.repeat(np.arange(len(counts)), counts)
    return Labelled(tuple(map(str, range(len(counts)))), {"all": Split(list(range(len(labels))), labels)})


def test_flat_tree_has_sorted_classes_and_nested_files(tmp_path: Path) -> None:
    tree(tmp_path, "b/1.x", "b/deep/2.X", "b/note.txt", "b/.hidden.x", "a/3.x", ".cache/4.x")
    data = load_folder(tmp_path, (".x",))
    assert data.classes == ("a", "b")
    assert [p.name for p in data.splits["all"].items] == ["3.x", "1.x", "2.X"]
    assert data.splits["all"].labels.tolist() == [0, 1, 1]


def test_split_tree_keeps_its_splits_and_takes_val_from_train_only(tmp_path: Path) -> None:
    tree(tmp_path, *(f"train/{c}/{i}.x" for c in "ab" for i in range(10)), "test/b/0.x", "test/a/0.x")
    data = split_data(load_folder(tmp_path, (".x",)), 0.2, 0.5, seed=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 16, "val": 4, "test": 2}
    assert all("test" in p.parts for p in data.splits["test"].items)
    assert all("train" in p.parts for p in data.splits["val"].items)


def test_a_tree_with_its_own_val_but_no_test_is_not_divided_further(tmp_path: Path) -> None:
    tree(tmp_path, *(f"{s}/{c}/{i}.x" for s in ("train", "val") for c in "ab" for i in range(3)))
    data = split_data(load_folder(tmp_path, (".x",)), 0.2, 0.5, seed=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 6}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no class folders"),
        (["a/1.x", "b/1.txt"], r"class 'b' has no files: .*b \(looked for .x\)"),
        (["train/a/1.x", "train/b/1.x", "test/c/1.x"], r"test has class 'c', which .*train has not"),
        (["train/a/1.x"], "has 1 class folder; at least 2"),
        (["a/1.x"], "has 1 class folder; at least 2"),
    ],
)
def test_bad_trees_are_named(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_folder(tree(tmp_path, *files), (".x",))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder; expected .*CLASS"):
        load_folder(tmp_path / "nowhere", (".x",))


def test_find_files_takes_a_single_file_whatever_its_ending(tmp_path: Path) -> None:
    tree(tmp_path, "a.odd")
    assert find_files(tmp_path / "a.odd", (".x",)) == [tmp_path / "a.odd"]


@given(st.lists(st.integers(12, 40), min_size=2, max_size=5), st.integers(0, 3))
def test_split_is_stratified_disjoint_and_complete(counts: list[int], seed: int) -> None:
    splits = split_data(unsplit(counts), 0.2, 0.25, seed).splits
    items = [i for split in splits.values() for i in split.items]
    assert sorted(items) == list(range(sum(counts)))
    for split in splits.values():
        share = np.bincount(split.labels, minlength=len(counts)) / len(split)
        np.testing.assert_allclose(share, np.array(counts) / sum(counts), atol=1.5 / len(split))


def test_test_split_is_sklearns_and_does_not_depend_on_val_fraction() -> None:
    data = unsplit([30, 20, 50])
    _, expected = train_test_split(np.arange(100), test_size=0.25, stratify=data.splits["all"].labels, random_state=0)
    for fraction in (0.1, 0.3):
        assert split_data(data, fraction, 0.25, 0).splits["test"].items == expected.tolist()


@given(st.integers(0, 2**31), st.lists(st.integers(1, 5), min_size=24, max_size=40))
def test_groups_stay_together_and_no_sample_is_lost(seed: int, sizes: list[int]) -> None:
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    data = Labelled(("0", "1"), {"all": Split(list(range(len(groups))), groups % 2, groups)})
    splits = split_data(data, 0.3, 0.25, seed).splits
    found = [set(split.groups.tolist()) for split in splits.values()]
    assert sum(map(len, found)) == len(set.union(*found)) == len(sizes)
    assert sorted(i for split in splits.values() for i in split.items) == list(range(len(groups)))
    for split in splits.values():
        assert (split.groups == groups[split.items]).all()
        assert (split.labels == split.groups % 2).all()


def test_groups_are_counted_where_there_are_groups() -> None:
    data = Labelled(("0", "1"), {"all": Split([0, 1, 2, 3], np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]))})
    with pytest.raises(UserError, match=r"class '1' has 1 group\(s\): at least 2 are needed"):
        split_data(data, 0.2, 0.5, 0)


@pytest.mark.parametrize(
    ("counts", "fraction", "message"),
    [
        ([5, 1], 0.25, r"class '1' has 1 sample\(s\): at least 2 are needed to set some aside for test"),
        (
            [4, 4],
            0.1,
            r"data.test_fraction 0.1 of 8 samples leaves fewer than one a class \(2 classes\); raise it to 0.25",
        ),
        ([9, 9], 1.5, r"data.test_fraction is 1.5; expected a number between 0 and 1"),
    ],
)
def test_impossible_divisions_are_named(counts: list[int], fraction: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_data(unsplit(counts), 0.2, fraction, 0)


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    one = load_folder(tree(tmp_path / "one", "a/1.x", "b/2.x"), (".x",)).splits["all"]
    two = load_folder(tree(tmp_path / "two", "a/1.x", "b/2.x"), (".x",)).splits["all"]
    more = load_folder(tree(tmp_path / "more", "a/1.x", "b/3.x"), (".x",)).splits["all"]
    assert one.fingerprint() == two.fingerprint() != more.fingerprint()


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


@given(st.integers(1, 50), st.integers(0, 5), st.integers(0, 5))
def test_sampler_permutes_by_seed_and_epoch(length: int, seed: int, epoch: int) -> None:
    sampler = EpochSampler(length, shuffle=True, seed=seed)
    sampler.set_epoch(epoch)
    draws = list(sampler)
    assert draws == list(sampler)
    assert {d.epoch for d in draws} == {epoch}
    assert sorted(d.index for d in draws) == list(range(length))


def test_epochs_are_shuffled_differently_and_evaluation_is_in_order() -> None:
    sampler = EpochSampler(50, shuffle=True)
    first = [d.index for d in sampler]
    sampler.set_epoch(1)
    assert first != [d.index for d in sampler]
    assert [d.index for d in EpochSampler(5, shuffle=False)] == [0, 1, 2, 3, 4]


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


def related(root: Path, groups: int = 40) -> Path:
    """Two classes, groups of one to three files, some of them in both classes."""
    rows = ["file,group,note"]
    for group in range(groups):
        for i in range(1 + group % 3):
            file = f"{'ab'[(group + i) % 2]}/{group}-{i}.x"
            tree(root, file)
            rows.append(f"{file},g{group},any")
    (root / "groups.csv").write_text("\n".join(rows) + "\n")
    return root


@pytest.mark.parametrize("seed", range(3))
def test_relatives_stay_on_one_side_and_every_sample_is_tested_once(tmp_path: Path, seed: int) -> None:
    root, tested = related(tmp_path), []
    for fold in range(5):
        splits = load_grouped(root, (".x",), seed, fold).splits
        sides = {name: {p.name.partition("-")[0] for p in split.items} for name, split in splits.items()}
        assert not sides["train"] & sides["test"]
        assert len(splits["train"]) + len(splits["test"]) == len(find_files(root, (".x",)))
        assert [p.parent.name for p in splits["test"].items] == ["ab"[label] for label in splits["test"].labels]
        tested += splits["test"].items
    assert sorted(tested) == find_files(root, (".x",))


def test_grouped_mistakes_are_named(tmp_path: Path) -> None:
    root = related(tmp_path)
    tree(root, "a/new.x")
    with pytest.raises(UserError, match=r"groups.csv does not name a/new.x"):
        load_grouped(root, (".x",))
    (root / "groups.csv").write_text("path,group\n")
    with pytest.raises(UserError, match=r"groups.csv is not a table with the columns file and group"):
        load_grouped(root, (".x",))
    (root / "groups.csv").unlink()
    with pytest.raises(UserError, match=r"groups.csv is not a table"):
        load_grouped(root, (".x",))
    tree(root, "train/a/1.x", "train/b/1.x")
    with pytest.raises(UserError, match=r"is divided already; data.source folder reads it"):
        load_grouped(root, (".x",))


def test_what_is_made_of_files_of_one_name_gets_names_of_its_own() -> None:
    files = [Path("a/x.csv"), Path("b/x.csv"), Path("b/x-2.csv"), Path("c/x.png"), Path("y.csv")]
    assert distinct_stems(files) == ["x", "x-2", "x-2-2", "x-3", "y"]


@given(st.lists(st.sampled_from(["x", "x-2", "x-3", "x-2-2", "y"]), max_size=12))
def test_no_two_files_share_a_name_whatever_they_are_called(stems: list[str]) -> None:
    names = distinct_stems([Path(f"{i}/{stem}.csv") for i, stem in enumerate(stems)])
    assert len(set(names)) == len(stems)


def test_inputs_are_files_and_what_lies_in_folders(tmp_path: Path) -> None:
    tree(tmp_path, "a/1.x", "a/deep/2.x", "a/3.y", "empty/4.y", "alone.z")
    found = find_inputs([tmp_path / "alone.z", str(tmp_path / "a")], (".x",))
    assert [p.name for p in found] == ["alone.z", "1.x", "2.x"]
    with pytest.raises(UserError, match=r"empty has no files ending in .x"):
        find_inputs([tmp_path / "a", tmp_path / "empty"], (".x",))
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        find_inputs([tmp_path / "nowhere"], (".x",))
