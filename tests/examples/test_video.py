from pathlib import Path

import numpy as np
import pytest

from unireplknet.data.frames import open_frames
from unireplknet.data.sources.folder import load_folder
from unireplknet.modalities.video import VideoInput
from unireplknet_examples.layouts.video import DIRECTIONS, emoji_anim, motion, moving


def centre(frame: np.ndarray) -> np.ndarray:
    """Row and column of the middle of the bright part, on a ring of the frame's size."""
    weight = np.where(frame > frame.mean() + 40, frame.astype(float), 0)
    angles = 2 * np.pi * np.arange(len(frame)) / len(frame)
    return (
        np.array([np.angle((weight.sum(1 - axis) * np.exp(1j * angles)).sum()) for axis in (0, 1)])
        * len(frame)
        / (2 * np.pi)
    )


def places(turn: int, seed: int) -> np.ndarray:
    """Where a large bright block is, shape (shot, frame, (row, column))."""
    video = moving(np.full((8, 8), 250.0), turn, np.random.default_rng(seed))
    assert video.shape == (16, 32, 32)
    return np.stack([centre(frame) for frame in video]).reshape(4, 4, 2)


def steps(path: np.ndarray) -> np.ndarray:
    """From each place to the next by the shortest way around the edges."""
    return (np.diff(path, axis=-2) + 16) % 32 - 16


@pytest.mark.parametrize("turn", range(8))
def test_every_shot_moves_where_the_name_says(turn: int) -> None:
    for seed in range(5):
        for down, right in steps(places(turn, seed)).reshape(-1, 2):
            name = DIRECTIONS[turn]
            np.testing.assert_allclose(down, 8 * (("down" in name) - ("up" in name)), atol=0.6)
            np.testing.assert_allclose(right, 8 * (("right" in name) - ("left" in name)), atol=0.6)


@pytest.mark.parametrize("turn", range(8))
def test_without_their_order_the_frames_of_all_classes_are_alike(turn: int) -> None:
    """For every direction, by the same draws, the same places: sixteen that lie evenly over the frame."""
    for seed in range(5):
        found = places(turn, seed).reshape(16, 2)
        corner = found[0] % 8
        cells = {tuple(np.round((place - corner) / 8).astype(int) % 4) for place in found}
        assert len(cells) == 16
        assert np.abs((found - corner + 4) % 8 - 4).max() < 0.6
        other = places((turn + 1) % 8, seed).reshape(16, 2)
        assert np.abs((other - corner + 4) % 8 - 4).max() < 0.6


def test_no_single_frame_tells_the_direction() -> None:
    for turn in (0, 3):
        found = np.stack([places(turn, seed).reshape(16, 2)[[0, 15]] % 32 for seed in range(300)])
        counts = [np.histogram(found[:, when, axis], 4, (0, 32))[0] for when in (0, 1) for axis in (0, 1)]
        assert min(map(min, counts)) > 45  # 75 expected, 7.5 standard deviation


def test_motion_is_a_tree_of_readable_videos(tmp_path: Path) -> None:
    motion(tmp_path, tmp_path / "motion", train=2, test=1)
    data = load_folder(tmp_path / "motion", VideoInput.extensions)
    assert set(data.classes) == set(DIRECTIONS)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 16, "test": 8}
    for split in data.splits.values():
        for path in split.items:
            frames = open_frames(path)
            assert frames.take(range(16), "L").shape == (16, 32, 32)
            assert len(frames) == 16


def test_animated_emoji(tmp_path: Path) -> None:
    assets = tmp_path / "@lobehub" / "fluent-emoji-anim-1" / "package" / "assets"
    assets.mkdir(parents=True)
    (assets / "1f468-200d-1f9bd.webp").write_bytes(b"x")
    emoji_anim(tmp_path, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["1f468-200d-1f9bd.webp"]
