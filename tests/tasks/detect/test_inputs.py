import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.runs import BOX_COLORS, draw_objects, write_objects
from unireplknet.data.dataset import Draw, MapDataset, collate_apart
from unireplknet.errors import UserError
from unireplknet.tasks.detect.data import Box, BoxSplit, Objects, load_coco
from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput, decode_outline

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def save(path: Path, pixels: np.ndarray, *boxes: Box, **kwargs: object) -> Objects:
    Image.fromarray(pixels).save(path)
    return Objects(path, boxes, **kwargs)


def test_maps_and_boxes_to_be_scored_are_those_of_the_file(tmp_path: Path) -> None:
    root = write_objects(tmp_path, 4)
    inputs = DetectInput(short=24, long=40, masks=True, **PLAIN)
    for item in load_coco(root, masks=True).splits["all"].items:
        map, objects = inputs.to_map(inputs.read(item))
        assert type(map) is torch.Tensor
        assert all(type(value) is torch.Tensor for value in objects.values())
        np.testing.assert_allclose(map.permute(1, 2, 0) * 255, np.asarray(Image.open(item.image)), atol=1e-3)
        np.testing.assert_array_equal(objects["boxes"], [box.corners for box in item.boxes])
        for box, mask in zip(item.boxes, objects["masks"], strict=True):
            left, top, right, bottom = map_ints(box.corners)
            expected = torch.zeros_like(mask)
            expected[top:bottom, left:right] = 1
            assert torch.equal(mask, expected)


def map_ints(values: tuple[float, ...]) -> list[int]:
    return [round(value) for value in values]


@pytest.mark.parametrize("seed", range(6))
def test_boxes_and_masks_stay_with_what_they_are_of(seed: int, tmp_path: Path) -> None:
    """Wherever a box goes, its pixels have its colour, and its mask fills it; no object is lost but at an edge."""
    root = write_objects(tmp_path, 4, seed=seed)
    inputs = DetectInput(short=48, long=90, masks=True, **PLAIN)
    augment = DetectAugment(scale=(0.6, 1.6), crop=0.5, flip=0.5)
    data = load_coco(root, masks=True)
    dataset = MapDataset(data.splits["all"], inputs.read, augment.bind(inputs), seed)
    seen = 0
    for index in range(4):
        sample = dataset[Draw(seed, index)]
        height, width = sample.map.shape[1:]
        assert max(height, width) <= 90
        for box, label, mask in zip(*(sample.label[k] for k in ("boxes", "labels", "masks")), strict=True):
            left, top, right, bottom = (int(value) for value in box.round())
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
            middle = 255 * sample.map[:, (top + bottom) // 2, (left + right) // 2]
            distances = [(middle - torch.tensor(colour)).abs().max() for colour in BOX_COLORS[::-1]]
            assert np.argmin(distances) == label
            rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
            around = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert (around - box).abs().max() <= 1.5
            seen += 1
    assert seen >= 6


def test_augmentation_is_a_function_of_seed_epoch_and_index(tmp_path: Path) -> None:
    inputs, augment = DetectInput(short=48, long=90), DetectAugment((0.6, 1.6), 0.5, flip=0.5, distort=True)
    split = load_coco(write_objects(tmp_path, 2)).splits["all"]
    to_map = augment.bind(inputs)
    dataset = MapDataset(split, inputs.read, to_map, 3)
    first = dataset[Draw(5, 1)]
    torch.manual_seed(9)
    again = MapDataset(split, inputs.read, pickle.loads(pickle.dumps(to_map)), 3)[Draw(5, 1)]
    assert torch.equal(first.map, again.map)
    assert torch.equal(first.label["boxes"], again.label["boxes"])
    others = [dataset[Draw(epoch, 1)].map for epoch in range(6)]
    assert all(a.shape != b.shape or not torch.equal(a, b) for a, b in itertools.pairwise(others))


def test_crowds_and_slivers_are_not_learnt(tmp_path: Path) -> None:
    pixels, _ = draw_objects(np.random.default_rng(0), 40, 60)
    boxes = (Box((1, 2, 20, 20), 0), Box((0, 0, 60, 40), 1, crowd=True), Box((30, 5, 30.5, 30), 1))
    inputs, item = DetectInput(short=40, long=60), save(tmp_path / "a.png", pixels, *boxes)
    learnt = DetectAugment().bind(inputs)(inputs.read(item))[1]
    assert learnt.keys() == {"boxes", "labels"}
    assert learnt["boxes"].tolist() == [[1, 2, 20, 20]]
    scored = inputs.to_map(inputs.read(item))[1]
    assert scored["iscrowd"].tolist() == [False, True, False]
    nothing = inputs.read(Objects(item.image))
    assert DetectAugment(flip=1.0, crop=1.0).bind(inputs)(nothing)[1]["boxes"].shape == (0, 4)


def test_samples_of_all_sizes_make_a_batch(tmp_path: Path) -> None:
    root = write_objects(tmp_path, 2, empty=1)
    inputs = DetectInput(short=48, long=90)
    split = load_coco(root).splits["all"]
    (root / "images" / "01.png").write_bytes(b"no picture")
    dataset = MapDataset(split, inputs.read, inputs.to_map)
    batch = collate_apart([dataset[Draw(0, i)] for i in range(3)])
    assert [map.shape for map in batch.maps] == [(3, 48, 64), (3, 48, 64)]
    assert [len(label["boxes"]) for label in batch.labels] == [2, 0]
    assert batch.indices.tolist() == [0, 2]
    assert "01.png" in batch.problems[0]


def test_a_missing_file_is_an_unreadable_sample(tmp_path: Path) -> None:
    inputs = DetectInput()
    sample = MapDataset(BoxSplit([Objects(tmp_path / "gone.png")]), inputs.read, inputs.to_map)[Draw(0, 0)]
    assert sample.map is None
    assert "gone.png" in sample.problem


def test_boxes_of_other_images_are_noticed(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(UserError, match=r"a.png is 60 x 40 pixels, its boxes are for \(64, 48\)"):
        DetectInput().read(save(tmp_path / "a.png", pixels, size=(64, 48)))
    with pytest.raises(UserError, match=r"the box \(70, 1, 80, 9\) lies beyond the image of 60 x 40 pixels"):
        DetectInput().read(save(tmp_path / "a.png", pixels, Box((1, 1, 9, 9), 0), Box((70, 1, 80, 9), 0)))
    cut = DetectInput().read(save(tmp_path / "a.png", pixels, Box((50, 1, 80, 90), 0)))[1]["boxes"]
    assert cut.tolist() == [[50, 1, 60, 40]]


@pytest.mark.parametrize(("size", "shape"), [((60, 40), (40, 60)), ((40, 60), (60, 40)), (None, (60, 40))])
def test_an_image_is_turned_as_its_boxes_are(
    size: tuple[int, int] | None, shape: tuple[int, int], tmp_path: Path
) -> None:
    """Stored lying, with a mark that it is to be shown standing: the table says which of the two its boxes are for."""
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert DetectInput().read(Objects(tmp_path / "a.jpg", size=size))[0].shape == (3, *shape)


def test_outlines() -> None:
    square = np.zeros((8, 9), np.uint8)
    square[1:5, 1:5] = 1
    lengths = [9, 4, 4, 4, 4, 4, 4, 4, 35]  # down the columns of 8, the first of which is empty
    for outline in ([[1, 1, 5, 1, 5, 5, 1, 5]], {"size": [8, 9], "counts": lengths}):
        np.testing.assert_array_equal(decode_outline(outline, 8, 9), square)
    both = decode_outline([[1, 1, 5, 1, 5, 5, 1, 5], [6, 6, 8, 6, 8, 8, 6, 8]], 8, 9)
    assert both.sum() == 16 + 4
    for outline in ([], None, "x", {"size": [3, 3], "counts": [9]}):
        with pytest.raises(UserError, match="segmentation"):
            decode_outline(outline, 8, 9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DetectInput(short=9, long=8), "input.short is 9, input.long 8"),
        (lambda: DetectInput(mean=(1.0,)), "input.mean has 1 numbers"),
        (lambda: DetectAugment(scale=(2, 1)), r"augment.scale is \(2, 1\)"),
        (lambda: DetectAugment(piece=(0.5, 1.5)), r"augment.piece is \(0.5, 1.5\)"),
    ],
)
def test_settings_that_make_no_sense(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
