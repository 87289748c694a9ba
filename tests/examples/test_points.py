import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest

from unireplknet.errors import UserError
from unireplknet_examples.layouts.points import class_of, furniture, group_of

BOX = "".join(f"v {x} {y} {z}\n" for x in (0, 1) for y in (0, 2) for z in (0, 5))
BOX += "f 1 2 4 3\nf 5 7 8 6\nf 1 5 6 2\nf 3 4 8 7\nf 1 3 7 5\nf 2 6 8 4\n"

MODELS = [
    ("Desk lamp", "scopia/desk_lamp1", "Scopia", ""),
    ("Chair", "scopia/chair", "Scopia", "1 0 0 0 0 -1 0 1 0"),
    ("Chair", "scopia/chair3", "Scopia", ""),
    ("Frame H\\u00f4i An", "scopia/frame", "Scopia", ""),
    ("Table fan", "blend/fan", "Somebody", ""),
    ("Oak table", "blend/oak", "Somebody", ""),
]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package" / "usr" / "share"
    folder.mkdir(parents=True)
    lines = ["# a catalogue", "license=Public domain", ""]
    with zipfile.ZipFile(folder / "Some.sh3f", "w") as archive:
        for i, (name, model, creator, rotation) in enumerate(MODELS, 1):
            lines += [f"name#{i}={name}", f"model#{i}=/{model}.obj", f"creator#{i}={creator}"]
            lines += [f"modelRotation#{i}={rotation}"] * bool(rotation)
            archive.writestr(f"{model}.obj", BOX)
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines))
    return tmp_path / "package"


def test_catalogues_become_a_tree_of_clouds_with_their_groups(package: Path, tmp_path: Path) -> None:
    rows = furniture(package, tmp_path / "out", count=200)
    with (tmp_path / "out" / "groups.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == rows
    assert [(row["file"], row["group"], row["licence"]) for row in rows] == [
        ("lamp/Some-desk_lamp1.npy", "Scopia: desk", "Public domain"),
        ("chair/Some-chair.npy", "Scopia: chair", "Public domain"),
        ("chair/Some-chair3.npy", "Scopia: chair", "Public domain"),
        ("table/Some-oak.npy", "Somebody", "Public domain"),
    ]
    upright, lying = (np.load(tmp_path / "out" / "chair" / f"Some-{name}.npy") for name in ("chair3", "chair"))
    assert upright.shape == (200, 3)
    assert upright.dtype == np.float32
    np.testing.assert_allclose(np.ptp(upright, axis=0), [1, 2, 5], atol=0.2)
    np.testing.assert_allclose(np.ptp(lying, axis=0), [1, 5, 2], atol=0.2)  # turned about x by modelRotation
    assert lying[:, 1].max() <= 1e-6


def test_nothing_is_overwritten_and_nothing_made_up(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="package exists already"):
        furniture(package, package)
    with pytest.raises(UserError, match=r"nowhere has no .sh3f files"):
        furniture(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("Glass door cabinet", "cabinet"),
        ("Double window 3 panes", "door"),
        ("Table with tablecloth", "table"),
        ("Sofa 2 seats", "sofa"),
        ("SUV", "vehicle"),
        ("Seat Leon", None),
        ("Sitting female", None),
        ("Tablet", None),
        ("Carpet", None),
    ],
)
def test_classes_by_name(name: str, label: str | None) -> None:
    assert class_of(name) == label


@pytest.mark.parametrize(
    ("creator", "model", "group"),
    [
        ("Doug C", "oakChair", "Doug C"),
        ("Scopia", "window_2x4_arched", "Scopia: window"),
        ("Reallusion", "holdingMale01", "Reallusion: holding"),
        ("Kator Legaz", "concept-sedan-01v2", "Kator Legaz: concept"),
    ],
)
def test_groups(creator: str, model: str, group: str) -> None:
    assert group_of(creator, model) == group
