"""Decoding by frame number, against a full decode of files made here."""

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.videos import COUNT, KEYS, decode_all, pictures, write_video
from unireplknet.data.frames import Animation, Frames, Stream, open_frames
from unireplknet.data.shards.samples import ShardSample
from unireplknet.errors import UserError


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "avi", "mov-open"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("video")
    match request.param:
        case "mp4" | "mkv" | "ts":
            return write_video(folder / f"a.{request.param}")
        case "avi":
            return write_video(folder / "a.avi", "mpeg4", bf="2", g="12")
        case _:  # groups that begin with frames shown before their key frame
            return write_video(folder / "a.mov", **{"x264-params": "open-gop=1:keyint=7:min-keyint=1", "g": "7"})


@pytest.mark.parametrize("suffix", [".mp4", ".ts", ".gif"])
def test_frames_of_a_member_are_those_of_the_file(suffix: str, tmp_path: Path) -> None:
    if suffix == ".gif":
        path = tmp_path / "a.gif"
        first, *rest = (Image.fromarray(frame) for frame in pictures(8))
        first.save(path, save_all=True, append_images=rest)
    else:
        path = write_video(tmp_path / f"a{suffix}")
    content = path.read_bytes()
    (tmp_path / "shard.tar").write_bytes(b"before" + content + b"after")
    member = open_frames(ShardSample(tmp_path / "shard.tar", path.name, 6, len(content)).open())
    whole = open_frames(path)
    numbers = [len(whole) - 1, 0, len(whole) // 2]
    assert len(member) == len(whole)
    assert np.array_equal(member.take(numbers, "RGB"), whole.take(numbers, "RGB"))
    assert np.array_equal(member.take([1], "RGB"), whole.take([1], "RGB"))


def test_the_file_is_a_hard_one(tmp_path: Path) -> None:
    with av.open(write_video(tmp_path / "a.mp4")) as container:
        types = [f.pict_type for f in container.decode(video=0)]
    with av.open(tmp_path / "a.mp4") as container:
        packets = [p for p in container.demux(video=0) if p.size]
    assert types.count(PictureType.B) > 20
    assert len(set(np.diff([p.pts for p in sorted(packets, key=lambda p: p.pts)]).tolist())) > 1
    assert [p.pts for p in packets] != sorted(p.pts for p in packets)
    assert sum(p.is_keyframe for p in packets) == len(KEYS)


def test_every_frame_is_that_of_a_full_decode(video: Path) -> None:
    frames, truth = open_frames(video), decode_all(video)
    assert len(frames) == len(truth) == COUNT
    for number in range(COUNT):
        assert (frames.take([number], "RGB")[0] == truth[number]).all(), number
    assert len(np.unique(truth.reshape(COUNT, -1), axis=0)) == COUNT


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, COUNT - 1), min_size=1, max_size=12))
def test_any_choice_in_any_order(video: Path, numbers: list[int]) -> None:
    assert (open_frames(video).take(numbers, "RGB") == decode_all(video)[numbers]).all()


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = open_frames(write_video(tmp_path / "a.mp4"))
    turned: list[int] = []
    searched = np.searchsorted
    decode = Stream._decode_until

    class Counting:
        def __init__(self, container: av.container.InputContainer) -> None:
            self.container = container
            self.streams = container.streams

        def decode(self, video: int):
            for frame in self.container.decode(video=video):
                turned.append(int(searched(frames.times, frame.pts)))
                yield frame

    monkeypatch.setattr(Stream, "_decode_until", lambda s, c, *rest: decode(s, Counting(c), *rest))
    frames.take([50, 52], "RGB")
    assert min(turned) >= 48
    assert max(turned) == 52
    turned.clear()
    frames.take([7, 50], "RGB")  # skips the group that begins at 23
    assert not any(10 < n < 48 for n in turned)


def test_grey_and_transparent(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mkv", "ffv1", pictures(3))
    frames = open_frames(path)
    assert (frames.take([0, 1, 2], "RGB") == pictures(3)).all()
    luma = pictures(3) @ [0.299, 0.587, 0.114]
    assert np.abs(frames.take([0, 1, 2], "L") - luma).max() <= 2
    assert (frames.take([1], "RGBA")[0, ..., 3] == 255).all()


def turn(path: Path, matrix: list[int]) -> None:
    """Write the matrix into an mp4's track header by which players turn the picture."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 4 + 4 * 5 + 16
    content[start : start + 36] = np.array([*matrix[:2], 0, *matrix[2:], 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(content)


def test_a_picture_that_a_phone_has_turned(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=pictures(4)[:, :16])
    upright = open_frames(path).take([2], "RGB")[0]
    one = 1 << 16
    turn(path, [0, one, -one, 0])  # x' = -y, y' = x, with y downwards: clockwise
    assert (open_frames(path).take([2], "RGB")[0] == np.rot90(upright, -1)).all()


def test_no_video_stream(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mp4", "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(UserError, match=r"^no video stream$"):
        open_frames(tmp_path / "a.mp4")


@pytest.mark.parametrize("content", [b"", b"this is not a video" * 100])
@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.gif"])
def test_files_that_are_no_video(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"no (video|animation): "):
        open_frames(tmp_path / name)


def test_cut_off_files(tmp_path: Path) -> None:
    write_video(tmp_path / "index-last.mp4")
    whole = (tmp_path / "index-last.mp4").read_bytes()
    (tmp_path / "index-last.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="no video: "):
        open_frames(tmp_path / "index-last.mp4")

    with av.open(tmp_path / "index-last.mp4", "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        for pixels in pictures():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    whole = (tmp_path / "index-last.mp4").read_bytes()
    (tmp_path / "index-first.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"cut off: \d+ of 60 frames are there"):
        open_frames(tmp_path / "index-first.mp4")


def test_damage_within_shows_when_it_is_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4")
    frames = open_frames(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(UserError, match="cannot be decoded"):
        frames.take([30], "RGB")


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_animations(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250), (250, 250, 0), (0, 250, 250)]
    first, *others = [Image.new("RGBA", (16, 16), (*c, 255)) for c in colours]
    if ending == "webp":
        others[1].putalpha(0)
    first.save(path, save_all=True, append_images=others, duration=40, lossless=True)
    frames: Frames = open_frames(path)
    assert isinstance(frames, Animation)
    assert len(frames) == 5
    found = frames.take([4, 2, 0, 2], "RGB")
    assert found.shape == (4, 16, 16, 3)
    third = [255] * 3 if ending == "webp" else [0, 0, 250]  # what is transparent is laid over white
    assert found[:, 5, 5].tolist() == [[0, 250, 250], third, [250, 0, 0], third]
