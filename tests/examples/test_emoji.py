"""The source is tested on a tree in the package's layout, drawn here; the vendors' drawings are never kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.examples.packages import CATEGORIES, table, write_package
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageInput
from unireplknet_examples.emoji import load_emoji, subject


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F44B", "1F44B-1F3FD"),  # waving hand: skin tone
        ("1F3C3", "1F3C3-1F3FB-200D-2640-FE0F-200D-27A1-FE0F"),  # runner: woman, facing right
        ("1F9D1-200D-1F680", "1F469-1F3FF-200D-1F680"),  # astronaut
        ("1F9D1", "1F468-200D-1F9B2"),  # bald man
        ("1F46A", "1F468-200D-1F469-200D-1F467-200D-1F466"),  # family
        ("1F491", "1F468-1F3FB-200D-2764-FE0F-200D-1F468-1F3FE"),  # couple with heart
        ("1F46D-1F3FB", "1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FF"),  # holding hands
        ("1F1EB-1F1F7", "1F1E8-1F1F5"),  # France, Clipperton
        ("2764-FE0F", "2764"),
    ],
)
def test_variants_have_one_subject(one: str, other: str) -> None:
    assert subject(one) == subject(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1F1E6-1F1FA", "1F1FA-1F1E6"),  # Australia, Ukraine: the same letters
        ("1F9D1-200D-1F680", "1F9D1-200D-1F692"),  # astronaut, firefighter
        ("1F9D1-200D-2764-FE0F-200D-1F9D1", "1F9D1-200D-2764-FE0F-200D-1F48B-200D-1F9D1"),  # heart, kiss
        ("1F436", "1F431"),
    ],
)
def test_other_drawings_have_other_subjects(one: str, other: str) -> None:
    assert subject(one) != subject(other)


def test_a_package_is_read_without_components_and_missing_drawings(tmp_path: Path) -> None:
    rows = table()
    rows[0]["has_img_acme"] = False
    data = load_emoji(write_package(tmp_path, rows))
    split = data.splits["all"]
    assert data.classes == CATEGORIES
    assert np.bincount(split.labels).tolist() == [11, 108]
    assert all(path.is_file() for path in split.items)
    # Transparent red is white to the network.
    assert (np.asarray(ImageInput().read(split.items[0])) == 255).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_subject_is_in_two_splits(tmp_path: Path, seed: int) -> None:
    data = load_emoji(write_package(tmp_path, table())).split(0.3, 0.3, seed)
    of = {name: {path.stem.upper() for path in split.items} for name, split in data.splits.items()}
    # A profession is the last code of the sequence: known here without the code under test.
    professions = [{code.split("-")[-1] for code in codes if "200D" in code} for codes in of.values()]
    animals = [{code for code in codes if "200D" not in code} for codes in of.values()]
    for found in (professions, animals):
        assert all(found)
        assert sum(map(len, found)) == len(set.union(*found)) == 12
    assert sum(len(split) for split in data.splits.values()) == 12 + 108


def test_another_vendors_package_is_divided_alike(tmp_path: Path) -> None:
    here = load_emoji(write_package(tmp_path / "a", table()))
    there = load_emoji(write_package(tmp_path / "b", table("other"), "other"))
    for name, split in here.split(0.3, 0.3, 0).splits.items():
        same = there.split(0.3, 0.3, 0).splits[name]
        assert [p.name for p in same.items] == [p.name for p in split.items]
        assert same.items[0] != split.items[0]
        assert same.fingerprint() == split.fingerprint()


def test_a_name_in_the_table_cannot_leave_the_folder(tmp_path: Path) -> None:
    root = write_package(tmp_path, table())
    rows = table()
    rows[0]["image"] = "../../../../secret.png"
    (root / "emoji.json").write_text(json.dumps(rows), encoding="utf-8")
    assert load_emoji(root).splits["all"].items[0] == root / "img" / "acme" / "64" / "secret.png"


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"img.VENDOR.64 is missing; expected an unpacked emoji-datasource-VENDOR"):
        load_emoji(tmp_path)
    write_package(tmp_path, table())
    for content in ("{", "[1]", '[{"category": "Flags"}]', '{"a": 1}'):
        (tmp_path / "emoji.json").write_text(content, encoding="utf-8")
        with pytest.raises(UserError, match=r"emoji.json is not the table of an emoji-datasource: "):
            load_emoji(tmp_path)
    (tmp_path / "img" / "another" / "64").mkdir(parents=True)
    with pytest.raises(UserError, match=r"img.VENDOR.64 holds acme, another; expected"):
        load_emoji(tmp_path)
