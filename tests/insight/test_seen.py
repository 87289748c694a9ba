from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unireplknet.insight.seen import draw_seen
from unireplknet.modalities.audio import AudioInput
from unireplknet.modalities.image import ImageInput
from unireplknet.modalities.panels import Panel, heat, panels
from unireplknet.modalities.video import VideoInput


def test_an_image_is_shown_as_it_was() -> None:
    inputs = ImageInput(size=16, fit="squash")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    (panel,) = panels(inputs, inputs.to_map(Image.fromarray(pixels)))
    np.testing.assert_allclose(panel.pixels, pixels / 255, atol=1e-6)
    grey = ImageInput(size=8, channels=1, mean=(0.3,), std=(0.2,))
    (panel,) = panels(grey, torch.zeros(1, 8, 8))
    np.testing.assert_allclose(panel.pixels, np.full((8, 8), 0.3), atol=1e-6)


def test_an_input_without_pictures_of_its_own_shows_its_channels() -> None:
    shown = panels(object(), torch.arange(24.0).view(2, 3, 4))
    assert [panel.title for panel in shown] == ["channel 0", "channel 1"]
    assert shown[1].pixels[0, 0] == 12


@pytest.mark.parametrize("count", [1, 4, 6])
def test_pictures_of_few_and_many_panels(tmp_path: Path, count: int) -> None:
    shown = [Panel(np.eye(32), f"view {i}") for i in range(count)]
    draw_seen(shown, "chair.obj", ["chair", "table"], [0.9, 0.1], tmp_path / "a.png")
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    assert 0.1 < (pixels < 250).mean() < 0.9
    if count == 6:  # nothing is drawn where the second row has no more panels
        height, width = pixels.shape
        assert (pixels[height // 2 + 20 :, width * 4 // 10 : width * 7 // 10] > 250).all()


def test_spectrogram_has_its_first_moment_on_the_left(tmp_path: Path) -> None:
    inputs = AudioInput(frames=100, mels=32)
    sample = torch.zeros(1, 100, 32)
    sample[0, :50] = 1  # loud in the first half
    draw_seen(panels(inputs, sample), "a.wav", ["yes"], [1.0], tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    light, dark = (np.abs(picture - colour).sum(2) < 12 for colour in ((252, 253, 191), (0, 0, 4)))  # magma's ends
    assert light.sum() > 5000
    left, right = np.nonzero(light)[1].mean(), np.nonzero(dark)[1].mean()
    assert left + 50 < right


def test_weights_lie_on_the_pixels_of_the_panels() -> None:
    image = ImageInput(size=4)
    weights = torch.arange(48.0).view(3, 4, 4)
    np.testing.assert_array_equal(heat(image, weights)[0], weights.sum(0))
    sound = AudioInput(frames=5, mels=3)
    sample = torch.randn(1, 5, 3)
    np.testing.assert_array_equal(heat(sound, sample)[0], panels(sound, sample)[0].pixels)
    np.testing.assert_array_equal(heat(object(), sample)[0], sample[0])


def test_frames_of_a_video_are_shown_in_the_order_of_time() -> None:
    inputs = VideoInput(frames=6, grid=(2, 3), size=4, fit="squash")
    clip = torch.rand(6, 3, 4, 4)
    shown = panels(inputs, inputs.tile(inputs.image.to_map((255 * clip).to(torch.uint8))))
    assert [panel.title for panel in shown] == [f"frame {i}" for i in range(1, 7)]
    for panel, frame in zip(shown, clip, strict=True):
        np.testing.assert_allclose(panel.pixels, frame.permute(1, 2, 0), atol=1 / 255)
    for values, frame in zip(heat(inputs, inputs.tile(clip)), clip, strict=True):
        np.testing.assert_allclose(values, frame.sum(0), rtol=1e-6)


@pytest.mark.parametrize("count", [1, 3])
def test_what_speaks_for_a_class_is_red_and_what_against_it_blue(tmp_path: Path, count: int) -> None:
    weights = np.zeros((32, 32))
    weights[:8] = 2
    weights[-4:] = -2
    draw_seen([Panel(np.eye(32))] * count, "a", ["b"], [1.0], tmp_path / "a.png", [weights] * count)
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).astype(int)
    red, blue = (np.abs(picture - colour).sum(2) < 12 for colour in ((255, 0, 0), (0, 0, 255)))
    assert red.sum() / blue.sum() == pytest.approx(2, rel=0.15)
    assert red.sum() > 1000
