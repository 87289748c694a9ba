"""Sound: any file that libsndfile opens -> a 1 x T x F map of time frames and mel bands."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from unireplknet.errors import UserError, missing_extra
from unireplknet.modalities.panels import Panel
from unireplknet.registry import Modality

EPSILON = torch.finfo(torch.float32).eps
"""Kaldi's smallest energy of a band."""

NEPER = math.log(10) / 10
"""A decibel as a difference of natural logarithms of energies."""


@dataclass
class AudioInput:
    """How a sound becomes a map: Kaldi's logarithmic mel spectrogram, time downwards, frequency to the right.

    Args:
        rate: Samples a second; sounds of other rates are resampled.
        frames: Height of the map: time steps. A longer sound is cut to its middle.
        clips: How many parts of a longer sound, evenly spread, have their probabilities averaged in the end; of a
            shorter one that is repeated, how many rows to begin with.
        mels: Width of the map: frequency bands of equal width on the mel scale.
        low: Lowest frequency in Hz.
        high: Highest frequency in Hz; 0 or less counts from half the rate.
        window: Length of the window in milliseconds.
        shift: Time from one frame to the next in milliseconds.
        fill: What follows a sound shorter than the map: "zero" as a logarithm, as published, or its "repeat".
        span: Decibels kept below the loudest point of the sound; 0 keeps all.
        level: What is taken for the zero of the map: the "fixed" mean, or in each sound the mean of each of its
            "bands", which takes the colouring of microphone and room away.
        channels: Sounds give maps of 1 channel; several microphones are averaged.
        mean: Subtracted from the logarithms where the level is fixed; the default is that of AudioSet.
        std: Twice this divides the difference.
    """

    rate: int = 16000
    frames: int = 128
    clips: int = 1
    mels: int = 128
    low: float = 20.0
    high: float = 0.0
    window: float = 25.0
    shift: float = 10.0
    fill: Literal["zero", "repeat"] = "zero"
    span: float = 0.0
    level: Literal["fixed", "bands"] = "fixed"
    channels: int = 1
    mean: float = -4.2677393
    std: float = 4.5689974

    extensions: ClassVar[tuple[str, ...]] = (
        ".aif",
        ".aiff",
        ".au",
        ".caf",
        ".flac",
        ".mp3",
        ".oga",
        ".ogg",
        ".opus",
        ".w64",
        ".wav",
    )

    def __post_init__(self) -> None:
        if self.channels != 1:
            raise UserError(f"input.channels is {self.channels}; sounds give maps of 1 channel")
        for name in ("rate", "frames", "clips", "mels", "window", "shift", "std"):
            if getattr(self, name) <= 0:
                raise UserError(f"input.{name} is {getattr(self, name)}; expected more than 0")
        if not 0 <= self.low < self.top <= self.rate / 2:
            raise UserError(
                f"input.low is {self.low} and input.high {self.high}; between 0 and {self.rate / 2:g} Hz,"
                f" half of input.rate, low has to be below high"
            )

    @property
    def top(self) -> float:
        """Highest frequency in Hz."""
        return self.high if self.high > 0 else self.rate / 2 + self.high

    @property
    def samples(self) -> int:
        """Length of a sound that fills the map."""
        return int(self.rate * self.window / 1000) + (self.frames - 1) * int(self.rate * self.shift / 1000)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape (1, frames, mels) of the map."""
        return 1, self.frames, self.mels

    def read(self, item: Path) -> Tensor:
        """Read a file, average its channels, resample it.

        Args:
            item: A file in any format that libsndfile knows.

        Returns:
            Samples from -1 to 1 at ``rate``, shape (N,), float32.

        Raises:
            UserError: The file is empty, cut off or holds something else than numbers.
        """
        try:
            import soundfile
        except ImportError as error:
            raise missing_extra("soundfile", "audio") from error
        try:
            with soundfile.SoundFile(item) as file:
                length, rate = file.frames, file.samplerate
                samples = file.read(dtype="float32", always_2d=True).mean(1)
        except soundfile.LibsndfileError as error:
            raise UserError(f"not a sound that libsndfile can read: {error.error_string}") from error
        if not len(samples):
            raise UserError("the sound has no samples")
        if len(samples) < length:
            raise UserError(f"the file is cut off: {len(samples)} of {length} samples")
        if not np.isfinite(samples).all():
            raise UserError("a sample is infinite or not a number")
        return torch.from_numpy(resample(samples, rate, self.rate))

    def to_map(self, wave: Tensor) -> Tensor:
        """The map of a sound for evaluation.

        Args:
            wave: Samples at ``rate``, shape (N,).

        Returns:
            A float32 tensor of shape (1, frames, mels).
        """
        return self._clip(wave, 0.5)

    def to_views(self, wave: Tensor) -> Tensor:
        """The maps of several parts of a sound, whose probabilities are to be averaged.

        Args:
            wave: Samples at ``rate``, shape (N,).

        Returns:
            A float32 tensor of shape (clips, 1, frames, mels).
        """
        count = self.clips
        return torch.stack([self._clip(wave, (number + 0.5) / count, number / count) for number in range(count)])

    def _clip(self, wave: Tensor, offset: float, turn: float = 0.0) -> Tensor:
        """The map of a part of a sound.

        Args:
            wave: The sound.
            offset: Where in a long sound the part lies: 0 is its begin, 1 its end.
            turn: Where in a short sound the map begins, as a part of its length, if it is repeated.
        """
        rest = max(0, len(wave) - self.samples)
        start = int(rest * offset)
        logs = self.normalise(self.spectrogram(wave[start : start + self.samples]))
        return self.lay_out(logs, 0 if rest else int(len(logs) * turn))

    def spectrogram(self, wave: Tensor) -> Tensor:
        """:func:`log_mel` with this input's settings; a sound shorter than one window is padded to it."""
        window = int(self.rate * self.window / 1000)
        wave = F.pad(wave, (0, max(0, window - len(wave))))
        return log_mel(wave, self.rate, self.mels, self.low, self.top, self.window, self.shift)

    def normalise(self, logs: Tensor) -> Tensor:
        """Bring the logarithms of energies, shape (T, mels), to the scale of the map."""
        if self.span:
            logs = logs.clamp_min(logs.max() - self.span * NEPER)
        mean = logs.mean(0) if self.level == "bands" else self.mean
        return (logs - mean) / (2 * self.std)

    @property
    def blank(self) -> float:
        """The number on the map that stands for nothing: a logarithm of 0 as published, or a band's mean."""
        return 0.0 if self.level == "bands" else -self.mean / (2 * self.std)

    def lay_out(self, logs: Tensor, start: int = 0) -> Tensor:
        """Bring (T, mels) to (1, frames, mels).

        Args:
            logs: The rows.
            start: First row to take, where the sound is repeated or longer than the map.
        """
        if self.fill == "repeat" or len(logs) > self.frames:
            rows = (start + torch.arange(self.frames)) % len(logs)
            return logs[rows][None]
        return F.pad(logs, (0, 0, 0, self.frames - len(logs)), value=self.blank)[None]

    def panels(self, sample: Tensor) -> list[Panel]:
        """The map as a spectrogram: time to the right, low notes at the bottom."""
        seconds = len(sample[0]) * self.shift / 1000
        return [
            Panel(sample[0].T.flip(0).numpy(), across="time, s", up="mel band", extent=(0, seconds, 0, self.mels)),
        ]

    def heat(self, weights: Tensor) -> list[np.ndarray]:
        """Weights of the map's numbers on the spectrogram."""
        return [weights[0].T.flip(0).numpy()]


@dataclass
class AudioAugment:
    """Random changes to training sounds; the defaults change nothing but which part of a long sound is taken.

    Args:
        speed: Largest change of speed and pitch together, as a part: 0.1 gives 0.9 to 1.1.
        tempo: Largest change of speed alone, as a part.
        noise: Loudest noise to add, as a part of the sound's own level; its colour goes from white to pink.
        gain: Largest change of loudness in decibels.
        equaliser: Largest change of loudness of a part of the frequencies in decibels, smooth over frequency.
        time_mask: Longest stretch of time to blank, in frames (SpecAugment).
        frequency_mask: Widest stretch of frequency to blank, in mel bands.
        masks: How many of each.
        shift: Longest shift in time, in frames; what leaves at one end comes in at the other.
        grain: Largest uniform noise to add to the map, as published: its level itself is drawn from 0 to this.
    """

    speed: float = 0.0
    tempo: float = 0.0
    noise: float = 0.0
    gain: float = 0.0
    equaliser: float = 0.0
    time_mask: int = 0
    frequency_mask: int = 0
    masks: int = 1
    shift: int = 0
    grain: float = 0.0

    def __post_init__(self) -> None:
        for name in ("speed", "tempo"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"augment.{name} is {getattr(self, name)}; expected a part, from 0 to less than 1")

    def bind(self, inputs: AudioInput) -> Callable[[Tensor], Tensor]:
        """The training counterpart of ``inputs.to_map``."""
        return partial(self._to_map, inputs)

    def _to_map(self, inputs: AudioInput, wave: Tensor) -> Tensor:
        wave = _cut(wave, math.ceil(inputs.samples * (1 + self.speed)))
        if self.speed:
            wave = _change_speed(wave, 1 + _between(-self.speed, self.speed))
        wave = _cut(wave, inputs.samples)
        if self.noise:
            wave = wave + _noise(len(wave)) * (wave.square().mean().sqrt() * _between(0, self.noise))
        logs = inputs.spectrogram(wave)
        if self.gain:
            logs = logs + NEPER * _between(-self.gain, self.gain)
        if self.equaliser:
            logs = logs + NEPER * self.equaliser * _smooth(inputs.mels)
        if self.tempo:
            logs = _stretch(logs, 1 + _between(-self.tempo, self.tempo))
        logs = inputs.normalise(logs)
        repeated = len(logs) if inputs.fill == "repeat" else max(1, len(logs) - inputs.frames + 1)
        return self._distort(inputs.lay_out(logs, _below(repeated)), inputs.blank)

    def _distort(self, sample: Tensor, blank: float) -> Tensor:
        for _ in range(self.masks):
            sample = _mask(sample, 1, self.time_mask, blank)
            sample = _mask(sample, 2, self.frequency_mask, blank)
        if self.grain:
            sample = sample + torch.rand(sample.shape) * _between(0, self.grain)
        if self.shift:
            sample = sample.roll(_below(2 * self.shift + 1) - self.shift, 1)
        return sample


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Change the rate of samples of shape (N,) by a polyphase filter; frequencies that do not fit are taken out."""
    if rate == wanted:
        return samples
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise missing_extra("scipy", "audio") from error
    common = math.gcd(rate, wanted)
    return resample_poly(samples, wanted // common, rate // common).astype(np.float32, copy=False)


def log_mel(wave: Tensor, rate: int, mels: int, low: float, high: float, window: float, shift: float) -> Tensor:
    """Logarithms of energies in mel bands, as Kaldi's compute-fbank-feats gives them with a Hann window and no dither.

    Only whole windows are used; each loses its mean, is pre-emphasised by 0.97 and padded to a power of two.

    Args:
        wave: Samples, shape (N,); N at least a window.
        rate: Samples a second.
        mels: Number of bands.
        low: Lower end of the lowest band in Hz.
        high: Upper end of the highest band in Hz.
        window: Length of the window in milliseconds.
        shift: Time from one window to the next in milliseconds.

    Returns:
        Natural logarithms, shape (T, mels).
    """
    size, step = int(rate * window / 1000), int(rate * shift / 1000)
    frames = wave.unfold(0, size, step)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat((frames[:, :1], frames[:, :-1]), 1)
    frames = (frames - 0.97 * before) * torch.hann_window(size, periodic=False, dtype=wave.dtype)
    padded = 1 << (size - 1).bit_length()
    power = torch.fft.rfft(frames, padded).abs().square()
    return (power @ mel_filters(rate, padded, mels, low, high).to(wave.dtype)).clamp_min(EPSILON).log()


@lru_cache
def mel_filters(rate: int, size: int, mels: int, low: float, high: float) -> Tensor:
    """Kaldi's triangular filters: each rises from the centre of the one before and falls to that of the next.

    Args:
        rate: Samples a second.
        size: Length of the Fourier transform.
        mels: Number of filters.
        low: Where the first one begins, in Hz.
        high: Where the last one ends, in Hz.

    Returns:
        Weights, shape (size // 2 + 1, mels), float64; the highest frequency has none, as in Kaldi.
    """

    def mel(hertz: Tensor) -> Tensor:
        return 1127 * torch.log1p(hertz / 700)

    ends = mel(torch.tensor([low, high], dtype=torch.float64))
    edges = ends[0] + (ends[1] - ends[0]) / (mels + 1) * torch.arange(mels + 2, dtype=torch.float64)
    at = mel(torch.arange(size // 2 + 1, dtype=torch.float64) * rate / size)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    weights = torch.minimum((at - left) / (centre - left), (right - at) / (right - centre)).clamp_min(0)
    weights[-1] = 0
    return weights


def _between(low: float, high: float) -> float:
    return low + (high - low) * torch.rand(()).item()


def _below(count: int) -> int:
    return int(torch.randint(count, ()))


def _cut(wave: Tensor, length: int) -> Tensor:
    start = _below(max(0, len(wave) - length) + 1)
    return wave[start : start + length]


def _change_speed(wave: Tensor, factor: float) -> Tensor:
    # Steps of 1 / 80 keep the filters short.
    return torch.from_numpy(resample(wave.numpy(), round(80 * factor), 80))


def _noise(length: int) -> Tensor:
    """Noise of root mean square 1, its energy falling by 0 to 3 dB an octave."""
    spectrum = torch.fft.rfft(torch.randn(1 << (length - 1).bit_length()))  # other lengths can be slow
    spectrum = spectrum / torch.arange(1, len(spectrum) + 1).pow(_between(0, 0.5))
    noise = torch.fft.irfft(spectrum)[:length]
    return noise / noise.square().mean().sqrt().clamp_min(1e-12)


def _smooth(count: int, knots: int = 6) -> Tensor:
    """A random curve through ``knots`` points from -1 to 1."""
    curve = 2 * torch.rand(1, 1, knots) - 1
    return F.interpolate(curve, count, mode="linear", align_corners=True)[0, 0]


def _stretch(rows: Tensor, factor: float) -> Tensor:
    return F.interpolate(rows.T[None], max(1, round(len(rows) / factor)), mode="linear", align_corners=True)[0].T


def _mask(sample: Tensor, axis: int, widest: int, blank: float) -> Tensor:
    length = sample.shape[axis]
    width = _below(min(widest, length) + 1)
    start = _below(length - width + 1)
    at = torch.arange(length)
    hidden = (at >= start) & (at < start + width)
    return sample.masked_fill(hidden[:, None] if axis == 1 else hidden, blank)


MODALITY = Modality(AudioInput, AudioAugment)
