from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageAugment, ImageInput

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5
GREY = ImageInput(size=8, channels=1, mean=(0.0,), std=(1.0,))
COLOUR = ImageInput(size=8, channels=3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def pixels(inputs: ImageInput, image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    return np.asarray(inputs.read(path))


def test_grey_file_for_a_colour_model_repeats_the_grey(tmp_path: Path) -> None:
    found = pixels(COLOUR, Image.fromarray(RAMP), tmp_path / "a.png")
    assert found.shape == (6, 8, 3)
    assert (found == RAMP[..., None]).all()


def test_colour_file_for_a_grey_model_is_luma(tmp_path: Path) -> None:
    found = pixels(GREY, Image.new("RGB", (4, 3), (200, 100, 50)), tmp_path / "a.png")
    assert (found == round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)).all()


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, mode: str) -> None:
    wide = (RAMP.astype(np.uint16) * 257).astype("<u2" if mode == "I;16" else ">u2")
    image = Image.frombytes(mode, (8, 6), wide.tobytes())
    assert (pixels(GREY, image, tmp_path / "a.tif") == RAMP).all()


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1))
    image.putdata([(0, 0, 0, 0), (10, 20, 30, 255)])
    assert pixels(COLOUR, image, tmp_path / "a.png").tolist() == [[[255, 255, 255], [10, 20, 30]]]
    assert pixels(GREY, Image.new("LA", (1, 1), (0, 0)), tmp_path / "b.png").tolist() == [[255]]


def test_transparency_is_kept_for_four_channels(tmp_path: Path) -> None:
    inputs = ImageInput(size=8, channels=4, mean=(0.0,) * 4, std=(1.0,) * 4)
    assert pixels(inputs, Image.new("RGBA", (1, 1), (1, 2, 3, 4)), tmp_path / "a.png").tolist() == [[[1, 2, 3, 4]]]


def test_palette_with_a_transparent_colour(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([9, 9, 9, 40, 50, 60])
    image.putdata([0, 1])
    found = pixels(COLOUR, image, tmp_path / "a.png", transparency=0)
    assert found.tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_exif_orientation_turns_the_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    found = pixels(GREY, Image.fromarray(RAMP), tmp_path / "a.png", exif=exif)
    assert (found == np.rot90(RAMP, -1)).all()


def test_float_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="32-bit pixels have no known range"):
        GREY.read(tmp_path / "a.tif")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_broken_files_raise(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(OSError):
        GREY.read(tmp_path / "a.png")


def test_truncated_file_raises(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OSError):
        GREY.read(tmp_path / "a.png")


def test_map_is_centre_cut_and_normalised() -> None:
    inputs = ImageInput(size=4, channels=1, crop=1.0, mean=(0.5,), std=(0.25,))
    image = Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((0, 0), (3, 3))))
    assert torch.equal(inputs.to_map(image), torch.full((1, 4, 4), 2.0))


@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("shape", [(5, 31), (31, 5), (1, 1), (40, 40)])
def test_maps_have_the_wanted_size(fit: str, shape: tuple[int, int]) -> None:
    inputs = ImageInput(size=7, fit=fit)
    image = Image.fromarray(np.zeros((*shape, 3), np.uint8))
    assert inputs.to_map(image).shape == (3, 7, 7)
    assert ImageAugment().bind(inputs)(image).shape == (3, 7, 7)
    assert ImageAugment(crop_scale=(0.1, 1.0), flip=0.5, policy="rand-m9-mstd0.5-inc1", erase=0.5).bind(inputs)(
        image
    ).shape == (3, 7, 7)


def test_squash_without_augmentation_equals_evaluation() -> None:
    inputs = ImageInput(size=9, channels=1, fit="squash", mean=(0.3,), std=(0.2,))
    image = Image.fromarray(RAMP)
    assert torch.equal(ImageAugment().bind(inputs)(image), inputs.to_map(image))


def test_translation_moves_content_by_at_most_its_part_and_brings_in_the_fill() -> None:
    image = Image.fromarray(np.pad(np.full((2, 2), 255, np.uint8), 4))
    move = ImageAugment(translate=0.2, fill=0).bind(ImageInput(size=10, channels=1, mean=(0.0,), std=(1.0,)))
    positions = {tuple((move(image)[0] > 0.5).nonzero()[0].tolist()) for _ in range(60)}
    assert len(positions) > 10
    assert all(2 <= row <= 6 and 2 <= column <= 6 for row, column in positions)


@pytest.mark.parametrize("policy", ["rand-m10-n12-inc1", "v0"])
def test_policies_take_their_strongest_level(policy: str) -> None:
    augment = ImageAugment(policy=policy).bind(COLOUR)
    image = Image.fromarray(np.repeat(RAMP[..., None], 3, 2))
    for _ in range(60):
        assert augment(image).shape == (3, 8, 8)


def test_posterizing_to_no_bits_leaves_black() -> None:
    [posterize] = [
        operation
        for operation in ImageAugment(policy="rand-m10-inc1").bind(COLOUR).transforms[2].ops
        if "Posterize" in operation.name
    ]
    posterize.prob = 1
    assert np.asarray(posterize(Image.new("RGB", (2, 2), "white"))).max() == 0
    posterize.magnitude = 0  # four bits
    assert np.asarray(posterize(Image.new("RGB", (2, 2), "white"))).tolist() == [[[240] * 3] * 2] * 2


def test_inconsistent_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"input.channels is 2; images have 1, 3 or 4"):
        ImageInput(channels=2)
    with pytest.raises(UserError, match=r"input.mean has 3 numbers; expected one per channel, 1"):
        ImageInput(channels=1)
