import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.runs import MASK_CLASSES, write_scenes
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageInput
from unireplknet.recipes.segment import ade20k_t
from unireplknet.tasks.segment.data import IGNORE, Masked, load_ade20k, load_masks


def load(path: Path) -> Masked:
    return load_masks(path, ImageInput.extensions)


def test_images_and_masks_of_the_same_name(tmp_path: Path) -> None:
    data = load(write_scenes(tmp_path, 8))
    assert data.names == MASK_CLASSES
    pairs = data.splits["all"].items
    assert [pair.image.name for pair in pairs] == [f"{i:02}.png" for i in range(8)]
    assert all(pair.mask == tmp_path / "masks" / pair.image.name and pair.classes == 3 for pair in pairs)
    divided = data.split(0.25, 0.25, seed=1)
    assert {name: len(split) for name, split in divided.splits.items()} == {"train": 4, "val": 2, "test": 2}
    assert sorted(pair.image for split in divided.splits.values() for pair in split.items) == [p.image for p in pairs]
    assert divided == load(tmp_path).split(0.25, 0.25, seed=1) != load(tmp_path).split(0.25, 0.25, seed=2)


def test_a_tree_with_splits_keeps_them(tmp_path: Path) -> None:
    for name, count in (("train", 4), ("test", 2)):
        write_scenes(tmp_path / name, count)
    (tmp_path / "train" / "classes.txt").rename(tmp_path / "classes.txt")
    data = load(tmp_path).split(0.25, 0.5, seed=0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "val": 1, "test": 2}


def test_ade20k(tmp_path: Path) -> None:
    for part, count in (("training", 3), ("validation", 2)):
        write_scenes(tmp_path / part, count)
        for ours, theirs in (("images", "images"), ("masks", "annotations")):
            (tmp_path / theirs).mkdir(exist_ok=True)
            (tmp_path / part / ours).rename(tmp_path / theirs / part)
        shutil.rmtree(tmp_path / part)
    table = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.2\t9\t2\t1\twall\n2\t0.1\t9\t2\t1\tbuilding, edifice\n"
    (tmp_path / "objectInfo150.txt").write_text(table, encoding="utf-8")
    data = load_ade20k(tmp_path, ImageInput.extensions)
    assert data.names == ("wall", "building, edifice")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 3, "val": 2}
    assert data.split(0.1, 0.25, 0) == data
    pair = data.splits["val"].items[0]
    numbers = np.asarray(Image.open(pair.mask)).astype(int)
    assert set(numbers.flat) == {0, 1, 2, 255}
    labels = ade20k_t().input.read(pair)[1].numpy()
    np.testing.assert_array_equal(labels, np.where((numbers == 0) | (numbers == 255), IGNORE, numbers - 1))
    (tmp_path / "objectInfo150.txt").unlink()
    with pytest.raises(UserError, match=r"objectInfo150.txt is missing"):
        load_ade20k(tmp_path, ImageInput.extensions)


def test_fingerprints_notice_other_masks(tmp_path: Path) -> None:
    before = load(write_scenes(tmp_path)).splits["all"].fingerprint()
    assert before == load(tmp_path).splits["all"].fingerprint()
    Image.fromarray(np.ones((40, 52), np.uint8)).save(tmp_path / "masks" / "00.png")
    assert before != load(tmp_path).splits["all"].fingerprint()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "masks" / "03.png").unlink(), r"03.png has no mask in .*masks \(1 such images\)"),
        (lambda root: (root / "images" / "03.png").unlink(), r"03.png has no image in .*images \(1 such masks\)"),
        (lambda root: (root / "classes.txt").unlink(), r"classes.txt is missing: a class name a line"),
        (lambda root: (root / "classes.txt").write_text("one\n"), r"classes.txt names 1 class"),
        (
            lambda root: shutil.copy(root / "images" / "03.png", root / "images" / "03.jpg"),
            r"03.jpg and .*03.png are both for one mask",
        ),
        (lambda root: shutil.rmtree(root / "masks"), r"masks is not a folder; expected .*NAME.png"),
        (lambda root: [p.unlink() for p in (root / "images").iterdir()], r"images has no files ending in .bmp"),
    ],
)
def test_what_is_wrong_is_named(spoil, message: str, tmp_path: Path) -> None:
    write_scenes(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


@pytest.mark.parametrize("fractions", [(0.25, 0), (1.5, 0.25)])
def test_impossible_fractions(fractions: tuple[float, float], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"_fraction is .*; expected a number between 0 and 1"):
        load(write_scenes(tmp_path)).split(*fractions, seed=0)
