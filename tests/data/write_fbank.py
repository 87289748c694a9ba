"""Write fbank.safetensors: two short sounds and their log-mel energies by torchaudio, for tests without torchaudio.

pip install --no-deps "torchaudio==2.11.*"
python tests/data/write_fbank.py
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

SETTINGS = {"wide": (16000, 128, 20.0, 0.0, 25.0, 10.0), "narrow": (8000, 40, 100.0, 3800.0, 32.0, 10.0)}


def sound(rate: int) -> torch.Tensor:
    """A third of a second: a rising tone in faint noise, louder and louder, with an offset."""
    torch.manual_seed(0)
    time = torch.arange(rate // 3) / rate
    tone = torch.sin(2 * torch.pi * (200 * time + 3000 * time**2))
    return 0.05 + time * (tone + 0.1 * torch.randn(len(time)))


def reference(wave: torch.Tensor, setting: str) -> torch.Tensor:
    """Log-mel energies of shape (frames, mels) by torchaudio."""
    from torchaudio.compliance.kaldi import fbank  # where it is not installed, the tests have what was written

    rate, mels, low, high, window, shift = SETTINGS[setting]
    return fbank(
        wave[None],
        sample_frequency=rate,
        num_mel_bins=mels,
        low_freq=low,
        high_freq=high,
        frame_length=window,
        frame_shift=shift,
        window_type="hanning",
        htk_compat=True,
        dither=0.0,
    )


if __name__ == "__main__":
    tensors = {}
    for name, (rate, *_) in SETTINGS.items():
        wave = sound(rate)
        tensors |= {f"{name}/wave": wave, f"{name}/fbank": reference(wave, name)}
    save_file(tensors, Path(__file__).parent / "fbank.safetensors")
