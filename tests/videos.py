"""Small videos, and a full decode of them."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType

COUNT = 60


KEYS = {0, 5, 6, 23, 48}


H264 = {"bf": "3", "b_strategy": "0", "g": "250", "sc_threshold": "0", "crf": "10"}


def pictures(count: int = COUNT, size: int = 32) -> np.ndarray:
    """Smooth noise that drifts: every frame differs from every other, and codecs can predict them."""
    rng = np.random.default_rng(0)
    base = np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((size // 4, size // 4, 1))).astype(np.uint8)
    return np.stack([np.roll(base, (i, 3 * i), (0, 1))[:size, :size] for i in range(count)])


def write_video(path: Path, codec: str = "libx264", frames: np.ndarray | None = None, **options: str) -> Path:
    """A video with key frames at KEYS alone, B-frames in between, and frames shown at uneven times."""
    frames = pictures() if frames is None else frames
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=25, options=(H264 if codec == "libx264" else {}) | options)
        stream.width, stream.height = frames.shape[2], frames.shape[1]
        stream.pix_fmt = "yuv420p" if codec != "ffv1" else "bgr0"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 100)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = 4 * i + (i % 3 == 1), Fraction(1, 100)
            frame.pict_type = PictureType.I if i in KEYS else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decode_all(path: Path) -> np.ndarray:
    with av.open(path) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
