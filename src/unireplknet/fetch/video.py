"""Videos from package archives, and videos that are rendered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from unireplknet.errors import missing_extra

DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
"""Clockwise, an eighth of a turn apart."""


def emoji_anim(packages: Path, out: Path) -> None:
    """The animated webp files, all in one folder."""
    out.mkdir()
    for file in (packages / "@lobehub/fluent-emoji-anim-1" / "package" / "assets").glob("*.webp"):
        file.replace(out / file.name)


def motion(packages: Path, out: Path, train: int = 400, test: int = 100) -> None:
    """Render digits that move in one of eight directions: ``{train,test}/DIRECTION/*.mp4``.

    The digits of the test videos are other ones than those of the training videos, and which digit moves says nothing
    about the direction. Neither does any single frame: digits start anywhere, and what leaves at one side comes in at
    the other.

    Args:
        packages: Not used; scikit-learn brings the digits.
        out: The folder to make.
        train: Training videos of each direction.
        test: Test videos of each direction.
    """
    from sklearn import datasets

    rng = np.random.default_rng(0)
    digits = rng.permutation(datasets.load_digits().images * (255 / 16))
    parts = {"test": (digits[: len(digits) // 4], test), "train": (digits[len(digits) // 4 :], train)}
    for part, (known, count) in parts.items():
        for turn, name in enumerate(DIRECTIONS):
            folder = out / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                write_video(folder / f"{number:03}.mp4", moving(known[rng.integers(len(known))], turn / 8, rng))


def moving(
    digit: np.ndarray, turn: float, rng: np.random.Generator, frames: int = 16, size: int = 32, scale: int = 2
) -> np.ndarray:
    """Frames of a digit that moves steadily, over noise.

    Args:
        digit: Grey values from 0 to 255, shape (h, w).
        turn: Direction as a part of a full turn, clockwise from the right.
        rng: Draws where it starts, how fast it moves (2 to 4 pixels a frame), brightness and noise.
        frames: How many.
        size: Their height and width.
        scale: How much larger the digit becomes.

    Returns:
        8-bit grey values, shape (frames, size, size).
    """
    shape = (digit.shape[1] * scale, digit.shape[0] * scale)
    large = np.asarray(Image.fromarray(digit.astype(np.float32)).resize(shape, Image.Resampling.BILINEAR))
    canvas = np.zeros((size, size))
    canvas[: large.shape[0], : large.shape[1]] = large
    start, speed = rng.uniform(0, size, 2), rng.uniform(2, 4)
    step = speed * np.array([np.sin(2 * np.pi * turn), np.cos(2 * np.pi * turn)])
    video = np.stack([_shifted(canvas, start + t * step) for t in range(frames)]) * rng.uniform(0.6, 1.0)
    video += rng.uniform(0, 60) + rng.normal(0, rng.uniform(5, 15), video.shape)
    return video.round().clip(0, 255).astype(np.uint8)


def _shifted(canvas: np.ndarray, by: np.ndarray) -> np.ndarray:
    """Shift by parts of a pixel, around the edges."""
    whole = np.floor(by).astype(int)
    down, right = by - whole
    rolled = np.roll(canvas, whole, (0, 1))
    rolled = (1 - down) * rolled + down * np.roll(rolled, 1, 0)
    return (1 - right) * rolled + right * np.roll(rolled, 1, 1)


def write_video(path: Path, frames: np.ndarray) -> None:
    """Write an mp4 file.

    Args:
        path: The file.
        frames: 8-bit grey values, shape (frames, H, W), even height and width.
    """
    try:
        import av
    except ImportError as error:
        raise missing_extra("av", "video") from error
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="gray")))
        container.mux(stream.encode())
