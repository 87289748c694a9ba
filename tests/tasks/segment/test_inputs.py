import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import max_pool2d

from tests.runs import draw_scene
from unireplknet.data.dataset import Draw, MapDataset
from unireplknet.errors import UserError
from unireplknet.tasks.segment.data import IGNORE, MaskSplit, Pair
from unireplknet.tasks.segment.inputs import SegmentAugment, SegmentInput

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def write(folder: Path, pixels: np.ndarray, mask: np.ndarray, classes: int = 3) -> Pair:
    Image.fromarray(pixels).save(folder / "image.png")
    Image.fromarray(mask).save(folder / "mask.png")
    return Pair(folder / "image.png", folder / "mask.png", classes)


def coded(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose red is 40 times the class of the pixel, so that a map tells which classes belong to it."""
    mask = np.random.default_rng(seed).integers(0, 6, (height // 8, width // 8)).repeat(8, 0).repeat(8, 1)
    return np.stack([40 * mask] * 3, -1).astype(np.uint8), mask.astype(np.uint8)


def test_classes_of_the_file_are_read_as_labels(tmp_path: Path) -> None:
    pixels, _ = draw_scene(np.random.default_rng(0), 20, 30)
    mask = np.random.default_rng(0).choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
    pair = write(tmp_path, pixels, mask)
    image, labels = SegmentInput().read(pair)
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), pixels)
    np.testing.assert_array_equal(labels.numpy(), np.where(mask == 255, IGNORE, mask.astype(int)))
    from_one = SegmentInput(first_class=1).read(pair)[1]
    np.testing.assert_array_equal(from_one.numpy(), np.where(np.isin(mask, (0, 255)), IGNORE, mask.astype(int) - 1))
    palette = Image.fromarray(mask, "L").convert("P")
    palette.putdata(mask.flatten())
    palette.save(tmp_path / "mask.png")
    assert torch.equal(SegmentInput().read(pair)[1], labels)
    Image.fromarray(mask.astype(np.uint16) + 300).save(tmp_path / "mask.png")
    assert torch.equal(SegmentInput(first_class=300, ignore=555).read(pair)[1], labels)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((20, 30), 3, np.uint8), r"mask.png has the number 3; the 3 classes are 0 to 2, and 255 is ignored"),
        (np.zeros((30, 20), np.uint8), r"mask.png is 20 x 30 pixels, its image 30 x 20"),
        (np.zeros((20, 30, 3), np.uint8), r"mask.png is in colour \(RGB\); expected a number a pixel"),
    ],
)
def test_a_wrong_mask_is_named_and_no_sample(mask: np.ndarray, message: str, tmp_path: Path) -> None:
    pair, inputs = write(tmp_path, np.zeros((20, 30, 3), np.uint8), mask), SegmentInput()
    with pytest.raises(UserError, match=message):
        inputs.read(pair)
    sample = MapDataset(MaskSplit([pair]), inputs.read, inputs.to_map)[Draw(0, 0)]
    assert sample.map is None
    assert str(pair.mask) in sample.problem


@pytest.mark.parametrize(("mask", "shape"), [((60, 40), (60, 40)), ((40, 60), (40, 60)), (None, (60, 40))])
def test_an_image_is_turned_as_its_mask_is(
    mask: tuple[int, int] | None, shape: tuple[int, int], tmp_path: Path
) -> None:
    """Stored lying, with a mark that it is to be shown standing: a mask may be of either."""
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    pair = Pair(tmp_path / "a.jpg")
    if mask is not None:
        Image.fromarray(np.zeros(mask, np.uint8)).save(tmp_path / "a.png")
        pair = Pair(tmp_path / "a.jpg", tmp_path / "a.png", 2)
    assert SegmentInput().read(pair)[0].shape == (3, *shape)


@pytest.mark.parametrize("shape", [(48, 80), (32, 32), (16, 24)])
@pytest.mark.parametrize("seed", range(4))
def test_map_and_mask_stay_together(shape: tuple[int, int], seed: int, tmp_path: Path) -> None:
    """Two pixels or more from the edge of a label, the red of the map is that of the class."""
    pair = write(tmp_path, *coded(*shape, seed), classes=6)
    inputs = SegmentInput(size=32, short=40, **PLAIN)
    augment = SegmentAugment(scale=(0.7, 2.0), flip=0.5)
    torch.manual_seed(seed)
    for to_map in (inputs.to_map, augment.bind(inputs)):
        map, labels = to_map(inputs.read(pair))
        assert type(map) is type(labels) is torch.Tensor
        assert map.dtype == torch.float32
        assert map.shape == (3, 32, 32)
        assert labels.shape == (32, 32)
        highest, lowest = (s * max_pool2d(s * labels[None].float(), 5, 1, 2)[0] for s in (1, -1))
        counted = (highest == lowest) & (labels != IGNORE)
        assert counted.sum() > 30
        assert (map[0] * 255 - 40 * labels)[counted].abs().max() < 4


def test_what_the_image_does_not_fill_is_ignored_and_grey(tmp_path: Path) -> None:
    inputs = SegmentInput(size=32, short=16)
    scene = inputs.read(write(tmp_path, *coded(16, 24), classes=6))
    torch.manual_seed(0)
    map, labels = SegmentAugment().bind(inputs)(scene)
    outside = labels == IGNORE
    assert outside.sum() == 32 * 32 - 16 * 24
    assert map[:, outside].abs().max() < 0.02  # the mean, but for rounding to a byte


def test_every_augmentation_happens_and_a_seed_repeats_it(tmp_path: Path) -> None:
    pair = write(tmp_path, *coded(40, 64), classes=6)
    inputs = SegmentInput(size=24, short=32, **PLAIN)
    augment = SegmentAugment(scale=(0.8, 1.6), flip=0.5, distort=True)
    dataset = MapDataset(MaskSplit([pair]), inputs.read, augment.bind(inputs), seed=3)
    samples = [dataset[Draw(epoch, 0)] for epoch in range(6)]
    assert all(not torch.equal(a.map, b.map) for a, b in itertools.pairwise(samples))
    sent = pickle.loads(pickle.dumps(dataset))  # as to the workers of a loader, where processes are not forked
    for again in (dataset[Draw(2, 0)], sent[Draw(2, 0)]):
        assert torch.equal(again.map, samples[2].map)
        assert torch.equal(again.label, samples[2].label)


def test_a_crop_that_one_class_fills_is_drawn_again(tmp_path: Path) -> None:
    """Of the 241 places, a class fills between a quarter and three quarters in 7."""
    mask = np.zeros((16, 256), np.uint8)
    mask[:, :16] = 1
    mask[:4] = 255  # does not count
    pair = write(tmp_path, np.zeros((16, 256, 3), np.uint8), mask)
    inputs, shares = SegmentInput(size=16), {}
    scene = inputs.read(pair)
    for largest in (1.0, 0.75):
        torch.manual_seed(0)
        to_map = SegmentAugment(largest=largest).bind(inputs)
        labels = torch.stack([to_map(scene)[1] for _ in range(200)])
        part = (labels == 1).sum((1, 2)) / (labels != IGNORE).sum((1, 2))
        shares[largest] = ((part > 0.25) & (part < 0.75)).float().mean().item()
    assert shares[1.0] == pytest.approx(7 / 241, abs=0.04)
    assert shares[0.75] == pytest.approx(1 - (1 - 7 / 241) ** 10, abs=0.1)


def test_whole_images_stay_as_they_are(tmp_path: Path) -> None:
    pixels, mask = coded(40, 80)
    inputs = SegmentInput(short=20, **PLAIN)
    map, labels = inputs.whole(inputs.read(write(tmp_path, pixels, mask, classes=6)))
    assert type(map) is type(labels) is torch.Tensor
    np.testing.assert_allclose(map.permute(1, 2, 0) * 255, pixels, atol=1e-3)
    np.testing.assert_array_equal(labels.numpy(), mask)


@pytest.mark.parametrize(
    ("sides", "scale", "size"),
    [
        ({}, 1.0, (40, 80)),
        ({}, 0.5, (20, 40)),
        ({"short": 20}, 1.0, (20, 40)),
        ({"short": 20}, 1.75, (35, 70)),
        ({"short": 20, "long": 30}, 1.0, (15, 30)),
        ({"long": 40}, 2.0, (40, 80)),
        ({"short": 1}, 0.1, (1, 1)),
    ],
)
def test_sizes_at_which_images_are_looked_at(sides: dict[str, int], scale: float, size: tuple[int, int]) -> None:
    assert SegmentInput(**sides).scaled_size(40, 80, scale) == size


@pytest.mark.parametrize(("short", "scaled"), [(48, 48), (16, 32), (0, 32)])
def test_a_training_is_followed_at_its_own_scale(short: int, scaled: int, tmp_path: Path) -> None:
    """What is 8 pixels wide in an image of 64 is as wide as in training, where it fills what is cut out."""
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 28:36] = 255
    inputs = SegmentInput(size=32, short=short, **PLAIN)
    map, labels = inputs.to_map(inputs.read(write(tmp_path, pixels, pixels[..., 0] // 255, classes=2)))
    assert map.shape == (3, 32, 32)
    assert map[0].mean().item() * 32 == pytest.approx(8 * scaled / 64, abs=0.1)
    assert labels.sum(1).tolist() == [8 * scaled // 64] * 32


def test_wrong_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"input.overlap is 1.0; expected at least 0 and less than 1"):
        SegmentInput(overlap=1.0)
    with pytest.raises(UserError, match=r"input.mean has 1 numbers; expected one per channel, 3"):
        SegmentInput(mean=(0.5,))
    with pytest.raises(UserError, match=r"augment.scale is \(2.0, 1.0\)"):
        SegmentAugment(scale=(2.0, 1.0))
