from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from tests.videos import COUNT, decode_all, pictures, write_video
from unireplknet.data.dataset import Draw, MapDataset
from unireplknet.data.split import Split
from unireplknet.errors import UserError
from unireplknet.modalities import MODALITIES
from unireplknet.modalities.video import VideoAugment, VideoInput
from unireplknet.randomness import random_state

PLAIN = {"size": 32, "fit": "squash", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "interpolation": "nearest"}


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.mp4")


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "wide.mp4", frames=pictures(6, 96)[:, :32])


def small(**changes: object) -> VideoInput:
    return VideoInput(**(PLAIN | {"frames": 6, "grid": (2, 3), "stride": 2} | changes))  # type: ignore[arg-type]


def pixels(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def test_frames_lie_row_by_row_in_the_order_of_time(video: Path) -> None:
    inputs = small()
    found = inputs.to_map(inputs.read(video))
    truth = pixels(decode_all(video))
    assert type(found) is torch.Tensor
    assert found.shape == (3, 64, 96)
    start = 25  # 6 frames, 2 apart, in the middle of 60
    for i in range(6):
        row, column = divmod(i, 3)
        tile = found[:, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        torch.testing.assert_close(tile, truth[start + 2 * i], rtol=0, atol=1e-6)


def test_the_papers_map() -> None:
    inputs = VideoInput()
    assert inputs.tile(torch.zeros(16, 3, 224, 224)).shape == (3, 896, 896)


def test_dense_sampling_reaches_every_place_and_no_further() -> None:
    inputs = small()
    starts = {tuple(inputs.numbers(15, u)) for u in np.linspace(0, 1, 400, endpoint=False)}
    assert starts == {tuple(range(s, s + 11, 2)) for s in range(5)}


def test_uniform_sampling_takes_one_of_each_part() -> None:
    inputs = small(sampling="uniform")
    assert inputs.numbers(6, 0.99).tolist() == [0, 1, 2, 3, 4, 5]
    for u in (0.0, 0.5, 0.999):
        found = inputs.numbers(60, u)
        assert (found // 10 == np.arange(6)).all()
    assert inputs.numbers(60, 0.5).tolist() == [5, 15, 25, 35, 45, 55]


def test_a_short_video_is_named_or_held(tmp_path: Path) -> None:
    path = write_video(tmp_path / "short.mp4", frames=pictures(4))
    with pytest.raises(UserError, match=r"too short: 4 frames, but the 6 of a clip, 2 apart, take 11; .* repeat"):
        small().read(path)
    with pytest.raises(UserError, match=r"too short: 4 frames, but the 6 of a clip; "):
        small(sampling="uniform").read(path)
    inputs = small(short="repeat")
    found = inputs.read(path)
    assert inputs.numbers(len(found), 0.5).tolist() == [0, 2, 3, 3, 3, 3]
    assert inputs.to_map(found).shape == (3, 64, 96)
    small().read(write_video(tmp_path / "enough.mp4", frames=pictures(11)))


def test_bad_videos_are_counted_not_fatal(tmp_path: Path, video: Path) -> None:
    good = tmp_path / "good.mp4"
    good.write_bytes(video.read_bytes())
    (tmp_path / "junk.mp4").write_bytes(b"junk")
    short = write_video(tmp_path / "short.mp4", frames=pictures(4))
    damaged = write_video(tmp_path / "damaged.avi", "mpeg4", g="12")
    content = bytearray(damaged.read_bytes())
    body = content.index(b"movi")
    content[body + 40 : content.rindex(b"idx1")] = bytes(content.rindex(b"idx1") - body - 40)
    damaged.write_bytes(content)
    inputs = small()
    files = [good, tmp_path / "junk.mp4", short, damaged]
    data = MapDataset(Split(files, np.zeros(4, np.int64)), inputs.read, inputs.to_map)
    samples = [data[Draw(0, i)] for i in range(4)]
    assert [s.map is not None for s in samples] == [True, False, False, False]
    for sample, path in list(zip(samples, files, strict=True))[1:]:
        assert sample.problem.startswith(f"{path}: ")


def test_damage_that_decoding_finds_is_counted(tmp_path: Path, video: Path) -> None:
    inputs, path = small(), tmp_path / "a.mp4"
    path.write_bytes(video.read_bytes())

    def read(item: Path) -> object:
        frames = inputs.read(item)
        path.write_bytes(video.read_bytes()[:900])
        return frames

    sample = MapDataset(Split([path], np.zeros(1, np.int64)), read, inputs.to_map)[Draw(0, 0)]
    assert sample.map is None
    assert "cannot be decoded" in sample.problem


@pytest.mark.parametrize(
    "augment",
    [
        VideoAugment(flip=0.5),
        VideoAugment(crop_scale=(0.2, 0.6), flip=0.5),
        VideoAugment(rotate=40, translate=0.3, zoom=0.2, shear=10, brightness=0.5),
        VideoAugment(policy="rand-m9-n3-mstd0.5"),
        VideoAugment(erase=1.0),
        VideoAugment(erase=1.0, erase_with="noise"),
    ],
)
def test_all_frames_are_changed_alike(tmp_path: Path, augment: VideoAugment) -> None:
    path = write_video(tmp_path / "still.mkv", "ffv1", np.repeat(pictures(1), 16, axis=0))
    inputs = small()
    assert (decode_all(path) == decode_all(path)[0]).all()
    change, video = augment.bind(inputs), inputs.read(path)
    maps = []
    for epoch in range(4):
        with random_state(epoch):
            maps.append(change(video))
    tiles = torch.stack(maps).unflatten(3, (3, 32)).unflatten(2, (2, 32)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    assert (tiles == tiles[:, :1]).all()  # 4 maps, 6 frames
    assert len({m.numpy().tobytes() for m in maps}) > 1
    with random_state(0):
        assert torch.equal(change(video), maps[0])


def test_training_takes_clips_from_everywhere(video: Path) -> None:
    inputs, truth = small(frames=1, grid=(1, 1)), pixels(decode_all(video))
    change, frames = VideoAugment().bind(inputs), inputs.read(video)
    seen = set()
    for epoch in range(40):
        with random_state(epoch):
            clip = change(frames)
        seen.add(int((truth - clip).abs().flatten(1).sum(1).argmin()))
    assert len(seen) > 20
    assert min(seen) < 10
    assert max(seen) >= COUNT - 10


def test_views_are_clips_times_crops(wide: Path) -> None:
    inputs = small(frames=2, grid=(1, 2), stride=1, fit="crop", clips=5, crops=3)
    found = inputs.to_views(inputs.read(wide))
    truth = pixels(decode_all(wide))
    assert found.shape == (15, 3, 32, 64)
    for view in range(15):
        clip, crop = divmod(view, 3)
        left = 32 * crop
        expected = torch.cat([truth[clip, :, :, left : left + 32], truth[clip + 1, :, :, left : left + 32]], dim=2)
        torch.testing.assert_close(found[view], expected, rtol=0, atol=1e-6)


def test_one_view_is_the_map(wide: Path) -> None:
    inputs = small(stride=1, size=24, fit="crop", crop=0.9)
    video = inputs.read(wide)
    assert torch.equal(inputs.to_views(video)[0], inputs.to_map(video))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels(video: Path, channels: int) -> None:
    inputs = VideoInput(
        frames=2, grid=(2, 1), size=20, channels=channels, mean=(0.5,) * channels, std=(1.0,) * channels
    )
    frames = inputs.read(video)
    assert inputs.to_map(frames).shape == (channels, 40, 20)
    assert VideoAugment(flip=0.5, crop_scale=(0.5, 1.0)).bind(inputs)(frames).shape == (channels, 40, 20)


def test_inconsistent_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"input.grid is 4 x 4, input.frames is 8; expected their product"):
        VideoInput(frames=8)
    with pytest.raises(UserError, match=r"input.crops is 3, but fit 'squash' shows the whole frame"):
        VideoInput(crops=3, fit="squash")
    with pytest.raises(UserError, match=r"input.stride is 0; expected at least 1"):
        VideoInput(stride=0)
    with pytest.raises(UserError, match=r"input.mean has 3 numbers; expected one per channel, 1"):
        VideoInput(channels=1)


def test_scaling_is_torchvisions(wide: Path) -> None:
    inputs = small(fit="crop", stride=1, size=16, interpolation="bilinear")
    frame = torch.from_numpy(decode_all(wide)[0]).permute(2, 0, 1)
    expected = v2.CenterCrop(16)(v2.Resize(16, v2.InterpolationMode.BILINEAR)(frame)) / 255
    torch.testing.assert_close(inputs.to_map(inputs.read(wide))[:, :16, :16], expected, rtol=0, atol=1e-6)


def test_it_is_a_modality() -> None:
    assert MODALITIES["video"] == (VideoInput, VideoAugment)
