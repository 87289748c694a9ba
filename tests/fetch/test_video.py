from pathlib import Path

import numpy as np
import pytest

from unireplknet.fetch.video import DIRECTIONS, emoji_anim, motion, moving
from unireplknet.modalities.folder import load_folder
from unireplknet.modalities.frames import open_frames
from unireplknet.modalities.video import VideoInput


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
def test_one_shot_moves_where_the_name_says(turn: int) -> None:
    for seed in range(5):
        found = steps(places(turn, seed))
        steady = [s for s in found if np.abs(s - s.mean(0)).max() < 0.6]
        assert len(steady) == 1
        down, right = steady[0].mean(0)
        name = DIRECTIONS[turn]
        assert (down > 2) == ("down" in name)
        assert (down < -2) == ("up" in name)
        assert (right > 2) == ("right" in name)
        assert (right < -2) == ("left" in name)
        assert 3.9 < np.hypot(down, right) < 7.1


@pytest.mark.parametrize("turn", range(8))
def test_without_their_order_the_frames_of_all_classes_are_alike(turn: int) -> None:
    """Each video has, on each axis, four places in a row: for every direction, by the same draws, the same ones."""

    def axes(turn: int, seed: int) -> set[int]:
        found = set()
        for shot in places(turn, seed):
            for order in ([0, 1, 2, 3], [2, 0, 3, 1], [1, 3, 0, 2]):
                step = steps(shot[order])
                if np.abs(step - step.mean(0)).max() < 0.6 and 3.9 < np.hypot(*step.mean(0)) < 7.1:
                    found.add(round(np.arctan2(*step.mean(0)) / (np.pi / 4)) % 4)
        return found

    assert all(axes(turn, seed) == {0, 1, 2, 3} for seed in range(5))


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
