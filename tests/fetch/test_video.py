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


@pytest.mark.parametrize("turn", range(8))
def test_things_move_where_the_name_says(turn: int) -> None:
    digit = np.full((8, 8), 250.0)
    video = moving(digit, turn / 8, np.random.default_rng(turn))
    assert video.shape == (16, 32, 32)
    places = np.stack([centre(frame) for frame in video])
    steps = (np.diff(places, axis=0) + 16) % 32 - 16
    down, right = steps.mean(0)
    name = DIRECTIONS[turn]
    assert (down > 1) == ("down" in name)
    assert (down < -1) == ("up" in name)
    assert (right > 1) == ("right" in name)
    assert (right < -1) == ("left" in name)
    assert 1.9 < np.hypot(down, right) < 4.1
    assert np.abs(steps - steps.mean(0)).max() < 0.6


def test_no_single_frame_tells_the_direction() -> None:
    rng = np.random.default_rng(0)
    digit = np.full((8, 8), 250.0)
    for turn in (0, 3):
        places = np.stack([[centre(f) % 32 for f in moving(digit, turn / 8, rng)[[0, 15]]] for _ in range(300)])
        counts = [np.histogram(places[:, when, axis], 4, (0, 32))[0] for when in (0, 1) for axis in (0, 1)]
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
