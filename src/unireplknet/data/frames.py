"""Video files by frame number: only what is asked for is decoded."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from unireplknet.data.io import convert, open_image
from unireplknet.data.shards.samples import ShardFile
from unireplknet.errors import UserError, missing_extra

ANIMATIONS = (".gif", ".webp")
FORMATS = {"L": "gray", "RGB": "rgb24", "RGBA": "rgba"}
"""Pixel formats of FFmpeg by those of Pillow."""


class Frames(Protocol):
    """The frames of a file, not decoded yet."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, numbers: Sequence[int], mode: str) -> np.ndarray:
        """Decode some frames.

        Args:
            numbers: Which, from 0, in any order, each as often as wanted.
            mode: "L", "RGB" or "RGBA".

        Returns:
            8-bit pixels, shape (len(numbers), H, W) for "L", otherwise (len(numbers), H, W, channels).

        Raises:
            UserError: One of them cannot be decoded.
        """


def open_frames(path: Path | ShardFile) -> Frames:
    """Find the frames of a video or an animated picture.

    Raises:
        UserError: There are none, or the file is cut off.
    """
    return Animation.open(path) if path.suffix.lower() in ANIMATIONS else Stream.open(path)


def _source(path: Path | ShardFile) -> Path | io.BytesIO:
    """What to open: a member as a file of its own each time, since each reader moves its position."""
    return io.BytesIO(path.getvalue()) if isinstance(path, ShardFile) else path


@dataclass(frozen=True)
class Stream:
    """The first video stream of a file that FFmpeg reads.

    Attributes:
        path: The file.
        times: When each frame is shown, in the stream's units, ascending.
        keys: When those are shown from which decoding can start, ascending.
        starts: When these are decoded, which is earlier where frames are reordered.
    """

    path: Path | ShardFile
    times: np.ndarray
    keys: np.ndarray
    starts: np.ndarray

    @staticmethod
    def open(path: Path | ShardFile) -> Stream:
        """List the frames from the packets' headers, without decoding any.

        Raises:
            UserError: There is no video stream, or the file is cut off.
        """
        try:
            import av
        except ImportError as error:
            raise missing_extra("av", "video") from error
        try:
            with av.open(_source(path)) as container:
                if not container.streams.video:
                    raise UserError("no video stream")
                stream = container.streams.video[0]
                packets = [
                    (p.pts, p.pts if p.dts is None else p.dts, p.is_keyframe, p.is_discard)
                    for p in container.demux(stream)
                    if p.size
                ]
                promised = stream.frames if "mov" in container.format.name else 0  # elsewhere it is a guess
        except av.FFmpegError as error:
            raise UserError(f"no video: {error.strerror}") from error
        if len(packets) < promised:
            raise UserError(f"cut off: {len(packets)} of {promised} frames are there")
        shown = [(pts, dts, key) for pts, dts, key, discard in packets if pts is not None and not discard]
        if not shown:
            raise UserError("no frames with a time in the video stream")
        starts = {pts: dts for pts, dts, key in shown if key}
        keys = np.array(sorted(starts), dtype=np.int64)
        times = np.unique([pts for pts, _, _ in shown])
        return Stream(path, times, keys, np.array([starts[k] for k in keys.tolist()], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.times)

    def take(self, numbers: Sequence[int], mode: str) -> np.ndarray:
        """As :meth:`Frames.take`: decoding starts at the last key frame before each stretch of wanted frames."""
        import av

        wanted = sorted({int(self.times[n]) for n in numbers})
        found: dict[int, np.ndarray] = {}
        try:
            with self._opened() as container:
                while len(found) < len(wanted):
                    self._decode_stretch(container, wanted[len(found) :], found, FORMATS[mode])
        except av.FFmpegError as error:
            raise UserError(f"cannot be decoded: {error.strerror}") from error
        return np.stack([found[int(self.times[n])] for n in numbers])

    def _opened(self) -> Any:
        import av

        container = av.open(_source(self.path))
        container.streams.video[0].codec_context.thread_count = 1  # loader workers share the cores already
        return container

    def _decode_stretch(self, container: Any, wanted: Sequence[int], found: dict[int, np.ndarray], form: str) -> None:
        """Decode the first wanted frames, up to one before which there is another key frame."""
        last = self._key_before(wanted[0])
        stretch = [t for t in wanted if self._key_before(t) == last]
        # Some formats are searched by when a frame is shown, others by when it is decoded, which may be counted from
        # another zero, some by guess: where decoding starts too late, then from an earlier time.
        end = int(self.times[self.times < self.keys[last + 1]][-1] if last + 1 < len(self.keys) else self.times[-1])
        for start in (end, *self.keys[last : last + 1].tolist(), *self.starts[last::-1].tolist()) if last >= 0 else ():
            container.seek(start, stream=container.streams.video[0])
            if self._decode_until(container, stretch, found, form):
                return
        with self._opened() as beginning:
            if not self._decode_until(beginning, stretch, found, form):
                number = int(np.searchsorted(self.times, stretch[0]))
                raise UserError(f"frame {number} of {len(self)} cannot be decoded")

    def _key_before(self, time: int) -> int:
        return int(np.searchsorted(self.keys, time, side="right")) - 1

    def _decode_until(self, container: Any, stretch: Sequence[int], found: dict[int, np.ndarray], form: str) -> bool:
        """Decode from where the container stands; whether all of the stretch came by."""
        missing = set(stretch)
        for frame in container.decode(video=0):
            if frame.pts in missing:
                missing.remove(frame.pts)
                pixels = frame.to_ndarray(format=form)
                found[frame.pts] = np.rot90(pixels, frame.rotation // 90) if frame.rotation else pixels
            if not missing:
                return True
            if frame.pts is not None and frame.pts > stretch[-1]:
                return False
        return False


@dataclass(frozen=True)
class Animation:
    """An animated picture that Pillow reads.

    Attributes:
        path: The file.
        count: Number of frames.
    """

    path: Path | ShardFile
    count: int

    @staticmethod
    def open(path: Path | ShardFile) -> Animation:
        """Count the frames.

        Raises:
            UserError: It is not a picture.
        """
        try:
            with open_image(_source(path)) as image:
                return Animation(path, getattr(image, "n_frames", 1))
        except OSError as error:
            raise UserError(f"no animation: {error}") from error

    def __len__(self) -> int:
        return self.count

    def take(self, numbers: Sequence[int], mode: str) -> np.ndarray:
        """As :meth:`Frames.take`."""
        found = {}
        try:
            with open_image(_source(self.path)) as image:
                for number in sorted(set(numbers)):
                    image.seek(number)
                    found[number] = np.asarray(convert(image, mode))
        except (OSError, EOFError) as error:
            raise UserError(f"cannot be decoded: {error}") from error
        return np.stack([found[n] for n in numbers])
