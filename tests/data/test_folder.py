from pathlib import Path

import pytest

from tests.data.trees import write_files
from unireplknet.data.files import find_files
from unireplknet.data.sources.folder import load_folder, load_grouped
from unireplknet.errors import UserError


def test_flat_tree_has_sorted_classes_and_nested_files(tmp_path: Path) -> None:
    write_files(tmp_path, "b/1.x", "b/deep/2.X", "b/note.txt", "b/.hidden.x", "a/3.x", ".cache/4.x")
    data = load_folder(tmp_path, (".x",))
    assert data.classes == ("a", "b")
    assert [p.name for p in data.splits["all"].items] == ["3.x", "1.x", "2.X"]
    assert data.splits["all"].labels.tolist() == [0, 1, 1]


def test_split_tree_keeps_its_splits_and_takes_val_from_train_only(tmp_path: Path) -> None:
    write_files(tmp_path, *(f"train/{c}/{i}.x" for c in "ab" for i in range(10)), "test/b/0.x", "test/a/0.x")
    data = load_folder(tmp_path, (".x",)).split(0.2, 0.5, seed=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 16, "val": 4, "test": 2}
    assert all("test" in p.parts for p in data.splits["test"].items)
    assert all("train" in p.parts for p in data.splits["val"].items)


def test_a_tree_with_its_own_val_but_no_test_is_not_divided_further(tmp_path: Path) -> None:
    write_files(tmp_path, *(f"{s}/{c}/{i}.x" for s in ("train", "val") for c in "ab" for i in range(3)))
    data = load_folder(tmp_path, (".x",)).split(0.2, 0.5, seed=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 6}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no class folders"),
        (["a/1.x", "b/1.txt"], r"class 'b' has no files: .*b \(looked for .x\)"),
        (["train/a/1.x", "train/b/1.x", "test/c/1.x"], r"class 'c' in .*test is missing from .*train"),
        (["train/a/1.x"], "has 1 class folder; at least 2"),
        (["a/1.x"], "has 1 class folder; at least 2"),
    ],
)
def test_bad_trees_are_named(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_folder(write_files(tmp_path, *files), (".x",))


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere is not a folder; expected .*CLASS"):
        load_folder(tmp_path / "nowhere", (".x",))


def test_fingerprint_follows_content_not_place(tmp_path: Path) -> None:
    one = load_folder(write_files(tmp_path / "one", "a/1.x", "b/2.x"), (".x",)).splits["all"]
    two = load_folder(write_files(tmp_path / "two", "a/1.x", "b/2.x"), (".x",)).splits["all"]
    more = load_folder(write_files(tmp_path / "more", "a/1.x", "b/3.x"), (".x",)).splits["all"]
    assert one.fingerprint() == two.fingerprint() != more.fingerprint()


def related(root: Path, groups: int = 40) -> Path:
    """Two classes, groups of one to three files, some of them in both classes."""
    rows = ["file,group,note"]
    for group in range(groups):
        for i in range(1 + group % 3):
            file = f"{'ab'[(group + i) % 2]}/{group}-{i}.x"
            write_files(root, file)
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
    write_files(root, "a/new.x")
    with pytest.raises(UserError, match=r"groups.csv does not name a/new.x"):
        load_grouped(root, (".x",))
    (root / "groups.csv").write_text("path,group\n")
    with pytest.raises(UserError, match=r"groups.csv is not a table with the columns file and group"):
        load_grouped(root, (".x",))
    (root / "groups.csv").unlink()
    with pytest.raises(UserError, match=r"groups.csv is not a table"):
        load_grouped(root, (".x",))
    write_files(root, "train/a/1.x", "train/b/1.x")
    with pytest.raises(UserError, match=r"is divided already; data.source folder reads it"):
        load_grouped(root, (".x",))
