"""Scenes of flat drawings: the colour of a pixel tells which category, subject or photograph it is of."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import from_numpy
from torch.nn.functional import max_pool2d

from tests.examples.packages import table, write_package
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageInput
from unireplknet.tasks.segment.data import load_masks
from unireplknet_examples.layouts.scenes import HIDDEN, PHOTOGRAPHS, SIDE, Scene, objects, scenes

COUNTS = {"train": 30, "val": 12, "test": 12}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Red squares for animals, blue ones for people, the green in them for the subject; grey photographs."""
    root = tmp_path_factory.mktemp("packages")
    package = write_package(root / "emoji-datasource-google" / "package", table())
    for file in (package / "img" / "acme" / "64").iterdir():
        animal = "-" not in file.stem
        number = int(file.stem[-2:], 16) % 12  # all but that of the component, which is left out, are less
        colour = (230, 20 * number, 0) if animal else (0, 20 * number, 230)
        Image.new("RGBA", (64, 64), (*colour, 255)).save(file)
    for i in range(9):
        package, pattern = list(PHOTOGRAPHS.items())[i % 3]
        file = root / package / "usr" / "share" / pattern.replace("*", f"picture{i}")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (200 + 10 * i, 150), (30 + 25 * i,) * 3).save(file)
    return root


@pytest.fixture(scope="module")
def made(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "scenes"
    scenes(packages, out, COUNTS)
    return out


def read(folder: Path, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels and classes of a scene, and which pixels are far from every edge in them."""
    pixels = np.asarray(Image.open(folder / "images" / f"{i:05}.jpg")).astype(int)
    mask = np.asarray(Image.open(folder / "masks" / f"{i:05}.png")).astype(int)
    shade = from_numpy(np.concatenate([mask[None] * 50.0, pixels.transpose(2, 0, 1)]))
    inside = max_pool2d(shade, 7, 1, 3) + max_pool2d(-shade, 7, 1, 3) < 12
    return pixels, mask, inside.all(0).numpy()


def test_masks_fit_the_pictures(made: Path) -> None:
    assert (made / "classes.txt").read_text() == "background\nAnimals & Nature\nPeople & Body\n"
    data = load_masks(made, ImageInput.extensions).split(0.5, 0.5, 0)
    assert {name: len(split) for name, split in data.splits.items()} == COUNTS
    seen = 0
    for i in range(COUNTS["train"]):
        pixels, mask, inside = read(made / "train", i)
        assert pixels.shape == (SIDE, SIDE, 3)
        red, blue = pixels[..., 0] - pixels[..., 2] > 100, pixels[..., 2] - pixels[..., 0] > 100
        assert (red == (mask == 1))[inside].all()
        assert (blue == (mask == 2))[inside].all()
        seen += (mask[inside] > 0).sum()
    assert seen > 10_000


def test_no_subject_and_no_photograph_is_in_two_splits(made: Path) -> None:
    subjects: dict[str, set[tuple[int, int]]] = {}
    photographs: dict[str, set[int]] = {}
    for split, count in COUNTS.items():
        subjects[split], photographs[split] = set(), set()
        for i in range(count):
            pixels, mask, inside = read(made / split, i)
            for label in (1, 2):
                green = pixels[..., 1][inside & (mask == label)]
                subjects[split] |= {(label, number) for number in np.round(green / 20).astype(int).tolist()}
            photographs[split] |= set(np.round((pixels[..., 1][inside & (mask == 0)] - 30) / 25).astype(int).tolist())
    for found in (subjects, photographs):
        assert sum(map(len, found.values())) == len(set.union(*found.values()))
    assert sum(map(len, photographs.values())) == 9
    assert sum(map(len, subjects.values())) > 18


def decoded(segmentation: dict) -> np.ndarray:
    runs = np.repeat(np.arange(len(segmentation["counts"])) % 2, segmentation["counts"])
    return runs.reshape(segmentation["size"], order="F").astype(bool)


def test_objects_are_cocos(made: Path) -> None:
    tables = json.loads((made / "train" / "instances.json").read_text())
    assert [category["name"] for category in tables["categories"]] == ["Animals & Nature", "People & Body"]
    assert len({annotation["id"] for annotation in tables["annotations"]}) == len(tables["annotations"]) > 30
    for annotation in tables["annotations"]:
        _, mask, _ = read(made / "train", annotation["image_id"])
        pixels = decoded(annotation["segmentation"])
        assert (mask[pixels] == annotation["category_id"]).all()
        assert pixels.sum() == annotation["area"] > 0
        rows, columns = np.nonzero(pixels)
        left, top, width, height = annotation["bbox"]
        assert (left, top, left + width, top + height) == (min(columns), min(rows), max(columns) + 1, max(rows) + 1)


def test_what_is_hidden_is_no_object() -> None:
    owners = np.zeros((SIDE, SIDE), np.uint8)
    owners[:10, :10], owners[20:30, 20:30] = 1, 3
    scene = Scene(np.zeros((SIDE, SIDE, 3), np.uint8), owners, [2, 1, 1], [HIDDEN, 0.0, HIDDEN - 0.01])
    assert [found["bbox"] for found in objects(scene)] == [[0, 0, 10, 10]]
    assert scene.mask[25, 25] == 1
    assert scene.mask[5, 5] == 2


def test_a_seed_decides_everything(packages: Path, made: Path, tmp_path: Path) -> None:
    def contents(root: Path) -> dict[str, bytes]:
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    scenes(packages, tmp_path / "again", COUNTS)
    scenes(packages, tmp_path / "other", COUNTS, seed=1)
    assert contents(tmp_path / "again") == contents(made) != contents(tmp_path / "other")


def test_missing_photographs_are_named(tmp_path: Path) -> None:
    write_package(tmp_path / "emoji-datasource-google" / "package", table())
    with pytest.raises(UserError, match=r"mate-backgrounds has 0 photographs backgrounds.*; expected at least 3"):
        scenes(tmp_path, tmp_path / "out")
