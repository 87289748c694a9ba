import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from tests.fixtures.write_fbank import SETTINGS
from unireplknet.data.dataset import Draw, MapDataset, collate
from unireplknet.data.split import Split
from unireplknet.errors import UserError
from unireplknet.modalities import MODALITIES
from unireplknet.modalities.audio import AudioAugment, AudioInput, log_mel, mel_filters, resample

GOLDEN = load_file(Path(__file__).parents[1] / "fixtures" / "fbank.safetensors")


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def our_log_mel(wave: Tensor, setting: str) -> Tensor:
    rate, mels, low, high, window, shift = SETTINGS[setting]
    return log_mel(wave, rate, mels, low, high or rate / 2, window, shift)


@pytest.mark.parametrize("setting", SETTINGS)
def test_log_mel_is_kaldis(setting: str) -> None:
    # torchaudio works in float32 as we do: bands of little energy differ by rounding.
    wave, expected = GOLDEN[f"{setting}/wave"], GOLDEN[f"{setting}/fbank"]
    torch.testing.assert_close(our_log_mel(wave, setting), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(our_log_mel(wave.double(), setting).float(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("setting", SETTINGS)
def test_log_mel_is_torchaudios_on_noise(setting: str) -> None:
    pytest.importorskip("torchaudio")
    from tests.fixtures.write_fbank import reference

    wave = torch.randn(SETTINGS[setting][0], generator=torch.Generator().manual_seed(1)) * 0.1
    torch.testing.assert_close(our_log_mel(wave, setting), reference(wave, setting), rtol=0, atol=1e-3)


def test_every_frequency_between_the_outer_centres_is_weighed_once() -> None:
    weights = mel_filters(16000, 4096, 20, 300, 6000)
    hertz = torch.arange(2049) * 16000 / 4096
    centres = [700 * (math.exp(m / 1127) - 1) for m in np.linspace(*(1127 * np.log1p([300 / 700, 6000 / 700])), 22)]
    inside = (hertz > centres[1]) & (hertz < centres[-2])
    torch.testing.assert_close(weights[inside].sum(1), torch.ones(int(inside.sum()), dtype=torch.float64))
    assert weights[(hertz < 300) | (hertz > 6000)].abs().sum() == 0


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
@pytest.mark.parametrize(
    ("ending", "subtype"), [("wav", "PCM_16"), ("wav", "FLOAT"), ("flac", "PCM_24"), ("ogg", "VORBIS")]
)
def test_files_of_any_rate_and_format_give_the_tone_that_is_in_them(
    tmp_path: Path, rate: int, ending: str, subtype: str
) -> None:
    left = tone(1000, rate)
    soundfile.write(tmp_path / f"a.{ending}", np.stack([left, 0 * left], 1), rate, subtype=subtype)
    wave = AudioInput(rate=8000).read(tmp_path / f"a.{ending}")
    assert abs(len(wave) - 8000) <= 1
    expected = torch.from_numpy(tone(1000, 8000)) / 2  # half of it: the other channel is silent
    middle = slice(500, 7500)
    tolerance = 0.02 if ending == "ogg" else 1e-3
    torch.testing.assert_close(wave[middle], expected[middle], rtol=0, atol=tolerance)


@given(st.sampled_from([8000, 11025, 16000, 22050, 44100, 48000]), st.integers(50, 3200))
@settings(deadline=None, max_examples=25)
def test_resampling_keeps_tones_and_takes_out_what_does_not_fit(rate: int, hertz: int) -> None:
    low = resample(tone(hertz, rate, 0.3), rate, 8000)
    middle = slice(300, min(len(low), 2400) - 300)
    np.testing.assert_allclose(low[middle], tone(hertz, 8000, 0.3)[: len(low)][middle], atol=0.01)
    if rate >= 16000:
        assert np.abs(resample(tone(7000, rate, 0.3), rate, 8000)[middle]).max() < 0.01


def unreadable(folder: Path) -> dict[str, str]:
    """Bad files, and a word of what is to be said about each."""
    soundfile.write(folder / "zero.wav", np.zeros(0, np.float32), 8000)
    soundfile.write(folder / "nan.wav", np.array([0, np.nan], np.float32), 8000, subtype="FLOAT")
    (folder / "text.wav").write_text("this is not a sound")
    (folder / "empty.ogg").write_bytes(b"")
    soundfile.write(folder / "whole.flac", np.random.default_rng(0).normal(0, 0.1, 40000), 8000)
    whole = (folder / "whole.flac").read_bytes()
    (folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    return {
        "zero.wav": "no samples",
        "nan.wav": "infinite or not a number",
        "text.wav": "not a sound that libsndfile can read",
        "empty.ogg": "not a sound that libsndfile can read",
        "cut.flac": "cut off|libsndfile",
    }


def test_unreadable_files_are_counted_with_name_and_reason(tmp_path: Path) -> None:
    reasons = unreadable(tmp_path)
    soundfile.write(tmp_path / "good.wav", tone(500, 8000), 8000)
    files = [tmp_path / name for name in (*reasons, "good.wav")]
    inputs = AudioInput()
    dataset = MapDataset(Split(files, np.arange(len(files))), inputs.read, inputs.to_map)
    batch = collate([dataset[Draw(0, i)] for i in range(len(files))])
    assert batch.labels.tolist() == [len(files) - 1]
    assert len(batch.problems) == len(reasons)
    for problem, (name, reason) in zip(batch.problems, reasons.items(), strict=True):
        assert str(tmp_path / name) in problem
        assert any(word in problem for word in reason.split("|"))
        assert "\n" not in problem


def test_a_map_is_time_by_frequency(tmp_path: Path) -> None:
    inputs = AudioInput(frames=100, mels=64)
    late = torch.zeros(inputs.samples)
    late[inputs.samples // 2 :] = torch.from_numpy(tone(3000, 16000))[: inputs.samples - inputs.samples // 2]
    sample = inputs.to_map(late)
    assert sample.shape == (1, 100, 64)
    assert sample[0, 60:].mean() > sample[0, :40].mean()
    edges = np.linspace(*(1127 * np.log1p(np.array([20, 8000]) / 700)), 66)[1:-1]
    nearest = np.abs(edges - 1127 * np.log1p(3000 / 700)).argmin()
    assert abs(int(sample[0, 70].argmax()) - nearest) <= 1


def test_published_normalisation_and_padding() -> None:
    inputs = AudioInput(mean=-6.845978, std=5.5654526)
    wave = torch.from_numpy(tone(700, 16000))
    sample = inputs.to_map(wave)
    assert sample.shape == (1, 128, 128)
    logs = log_mel(wave, 16000, 128, 20, 8000, 25, 10)
    assert len(logs) == 98
    padded = torch.cat((logs, torch.zeros(30, 128)))  # zeros before normalising, as the published code pads
    torch.testing.assert_close(sample[0], (padded + 6.845978) / (2 * 5.5654526), rtol=1e-5, atol=1e-5)


def test_long_sounds_are_cut_to_their_middle_and_short_ones_repeated() -> None:
    inputs = AudioInput(frames=20, fill="repeat")
    wave = torch.randn(16000)
    start = (len(wave) - inputs.samples) // 2
    torch.testing.assert_close(inputs.to_map(wave), inputs.to_map(wave[start : start + inputs.samples]))
    short = inputs.to_map(wave[: 400 + 6 * 160])  # 7 frames
    torch.testing.assert_close(short[0, 7:14], short[0, :7])
    assert AudioInput(fill="repeat").to_map(wave[:5]).isfinite().all()  # less than a window


def test_clips_are_spread_over_a_long_sound() -> None:
    wave = torch.randn(24000, generator=torch.Generator().manual_seed(0))
    inputs = AudioInput(rate=8000, frames=32, mels=20, fill="repeat", clips=3)
    views = inputs.to_views(wave)
    assert views.shape == (3, *inputs.shape)
    rest = len(wave) - inputs.samples
    for view, part in zip(views, (1 / 6, 1 / 2, 5 / 6), strict=True):
        assert torch.equal(view, inputs.to_map(wave[int(rest * part) :][: inputs.samples]))
    assert torch.equal(views[1], inputs.to_map(wave))
    assert torch.equal(AudioInput(rate=8000, frames=32, mels=20).to_views(wave)[0], inputs.to_map(wave))


def test_clips_of_a_short_sound_begin_where_it_is_repeated() -> None:
    wave = torch.randn(200 + 23 * 80, generator=torch.Generator().manual_seed(0))  # 24 frames
    inputs = AudioInput(rate=8000, frames=32, mels=20, clips=3)
    zeros = inputs.to_views(wave)
    assert torch.equal(zeros, inputs.to_map(wave).expand(3, -1, -1, -1))
    rows = replace(inputs, fill="repeat").to_views(wave)[:, 0]
    for number, view in enumerate(rows):
        assert torch.equal(view, torch.cat([zeros[0, 0, :24]] * 3)[8 * number :][:32])


def test_levels_of_bands_take_a_filter_away() -> None:
    """A filter of short response multiplies each band by a constant: its mean takes that out."""
    wave = torch.randn(40000, generator=torch.Generator().manual_seed(0))
    filtered = torch.nn.functional.conv1d(wave[None, None], torch.tensor([[[0.2, 0.9, -0.4]]]), padding="same")[0, 0]
    for level, least, most in (("fixed", 0.03, 9.0), ("bands", 0.0, 0.005)):
        inputs = AudioInput(frames=128, mels=24, level=level)
        difference = (inputs.to_map(wave) - inputs.to_map(filtered)).abs().mean()
        assert least < difference < most


def test_span_limits_the_range() -> None:
    inputs = AudioInput(span=30, frames=64)
    sample = inputs.to_map(torch.from_numpy(tone(1000, 16000)))
    assert (sample.max() - sample.min()).item() * 2 * inputs.std == pytest.approx(3 * math.log(10), rel=1e-4)


def test_augmentation_defaults_change_nothing_but_the_cut() -> None:
    inputs = AudioInput(frames=40)
    wave = torch.randn(inputs.samples)
    torch.testing.assert_close(AudioAugment().bind(inputs)(wave), inputs.to_map(wave))
    short = wave[:3000]
    torch.testing.assert_close(AudioAugment().bind(inputs)(short), inputs.to_map(short))


@pytest.mark.parametrize(
    "change",
    [
        {"speed": 0.3},
        {"tempo": 0.3},
        {"noise": 0.5},
        {"gain": 12},
        {"equaliser": 12},
        {"time_mask": 20},
        {"frequency_mask": 20},
        {"shift": 10},
        {"grain": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
@pytest.mark.parametrize("fill", ["zero", "repeat"])
def test_each_augmentation_changes_maps_and_depends_on_the_seed_alone(change: dict[str, float], fill: str) -> None:
    inputs = AudioInput(frames=50, mels=32, fill=fill)
    augmented = AudioAugment(**change).bind(inputs)
    wave = torch.randn(6000, generator=torch.Generator().manual_seed(0))
    maps = []
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        maps.append(augmented(wave))
    assert all(m.shape == (1, 50, 32) and m.isfinite().all() for m in maps)
    torch.testing.assert_close(maps[0], maps[2], rtol=0, atol=0)
    assert not torch.equal(maps[0], maps[1])


def test_speed_moves_pitch_and_tempo_does_not() -> None:
    inputs = AudioInput(frames=60, mels=64)
    wave = torch.from_numpy(tone(1000, 16000, 2.0))
    torch.manual_seed(0)
    original = int(inputs.to_map(wave)[0, 30].argmax())

    def peaks(augment: AudioAugment) -> set[int]:
        return {int(augment.bind(inputs)(wave)[0, 30].argmax()) for _ in range(16)}

    assert max(peaks(AudioAugment(speed=0.3))) > original + 2
    assert min(peaks(AudioAugment(speed=0.3))) < original - 2
    assert peaks(AudioAugment(tempo=0.3)) == {original}


def test_noise_is_as_loud_as_asked_for() -> None:
    from unireplknet.modalities.audio import _noise

    for length in (100, 16000, 20001):
        noise = _noise(length)
        assert len(noise) == length
        assert noise.square().mean().sqrt().item() == pytest.approx(1, rel=1e-5)


@given(st.integers(0, 60), st.integers(0, 40))
@settings(deadline=None, max_examples=30)
def test_masks_are_one_stretch_of_at_most_their_width(time_mask: int, frequency_mask: int) -> None:
    inputs = AudioInput(frames=50, mels=32)
    wave = torch.randn(inputs.samples, generator=torch.Generator().manual_seed(0))
    sample = AudioAugment(time_mask=time_mask, frequency_mask=frequency_mask).bind(inputs)(wave)[0]
    blank = sample == inputs.blank
    for lines, widest in ((blank.all(1), time_mask), (blank.all(0), frequency_mask)):
        at = lines.nonzero().flatten()
        if lines.all():
            continue
        assert len(at) <= widest
        assert len(at) == 0 or int(at[-1] - at[0]) + 1 == len(at)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": 2}, "input.channels is 2; sounds give maps of 1 channel"),
        ({"rate": 0}, "input.rate is 0; expected more than 0"),
        ({"clips": 0}, "input.clips is 0; expected more than 0"),
        ({"high": 9000}, "between 0 and 8000 Hz"),
        ({"low": 5000, "high": 4000}, "low has to be below high"),
    ],
)
def test_settings_that_cannot_be(change: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AudioInput(**change)
    with pytest.raises(UserError, match=r"augment.speed is 1"):
        AudioAugment(speed=1)


def test_panels_show_low_notes_at_the_bottom() -> None:
    inputs = AudioInput(frames=100, mels=64)
    (panel,) = inputs.panels(inputs.to_map(torch.from_numpy(tone(200, 16000, 2))))
    assert panel.pixels.shape == (64, 100)
    assert panel.extent == (0, 1.0, 0, 64)
    assert panel.pixels.mean(1).argmax() > 48


def test_it_is_registered() -> None:
    assert MODALITIES["audio"] == (AudioInput, AudioAugment)
