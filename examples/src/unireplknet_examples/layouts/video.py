"""Videos from package archives, and videos that are rendered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from unireplknet.errors import missing_extra

DIRECTIONS = ("right", "down-right", "down", "down-left", "left", "up-left", "up", "up-right")
"""Clockwise, an eighth of a turn apart."""

STEPS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
"""The same as rows down and columns to the right."""


def emoji_anim(packages: Path, out: Path) -> None:
    """The animated webp files, all in one folder."""
    out.mkdir()
    for file in (packages / "@lobehub/fluent-emoji-anim-1" / "package" / "assets").glob("*.webp"):
        file.replace(out / file.name)


def motion(packages: Path, out: Path, train: int = 400, test: int = 100) -> None:
    """Render digits that move in one of eight directions: ``{train,test}/DIRECTION/*.mp4``.

    A video has four shots of four frames, in each of which the digit moves in the direction that is the class. Whatever
    the direction, it visits the same sixteen places, which lie evenly over the frame. So the frames of a video, without
    their order, say nothing at all about the class: nothing can tell it better than chance from them.

    The digits of the test videos are other ones than those of the training videos, and which digit moves is drawn
    apart from the direction.

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
                write_video(folder / f"{number:03}.mp4", moving(known[rng.integers(len(known))], turn, rng))


def moving(digit: np.ndarray, turn: int, rng: np.random.Generator, size: int = 32, scale: int = 2) -> np.ndarray:
    """Frames of a digit that moves over noise; what leaves comes in at the other side.

    Args:
        digit: Grey values from 0 to 255, shape (h, w).
        turn: Direction in eighths of a turn clockwise from the right.
        rng: Draws where the places lie, the order of the shots, where each starts, brightness and noise.
        size: Height and width of the frames.
        scale: How much larger the digit becomes.

    Returns:
        8-bit grey values, shape (16, size, size).
    """
    shape = (digit.shape[1] * scale, digit.shape[0] * scale)
    large = np.asarray(Image.fromarray(digit.astype(np.float32)).resize(shape, Image.Resampling.BILINEAR))
    canvas = np.zeros((size, size))
    canvas[: large.shape[0], : large.shape[1]] = large
    step = np.array(STEPS[turn])
    across = np.array((0, 1) if step[0] else (1, 0))
    corner = rng.uniform(0, size, 2)
    # Four steps of a quarter lead back to where they began; four such rounds, side by side, visit all sixteen places.
    rounds = [lane * across + np.outer(np.arange(4) + rng.integers(4), step) for lane in rng.permutation(4)]
    places = corner + size / 4 * np.concatenate(rounds)
    video = np.stack([_shifted(canvas, place) for place in places]) * rng.uniform(0.6, 1.0)
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
