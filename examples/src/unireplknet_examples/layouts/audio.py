"""Sounds from Debian packages, and spoken by espeak-ng, as class-per-folder trees.

Sources: asterisk-core-sounds-LANGUAGE-wav (CC-BY-SA-3.0; one speaker a language, 8 kHz) and tuxpaint-stamps-default
(GPL-2; other speakers, 44.1 kHz).
"""

from __future__ import annotations

import hashlib
import itertools
import random
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from unireplknet.errors import UserError, missing_extra

ASTERISK_LANGUAGES = ("en", "es", "fr", "it", "ru")
SHARED_LANGUAGES = ("es", "fr", "ru")
"""Languages of which both packages have hundreds of sounds."""

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
"""The ten command words of Speech Commands."""

ACCENTS = ("en-029", "en-gb", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-x-rp", "en-us")


def language(packages: Path, out: Path) -> None:
    """Spanish, French and Russian: train on the speakers of one package, test on those of the other.

    Args:
        packages: Where the packages were unpacked, in a folder or folders of their own.
        out: The new tree: ``train/LANGUAGE/*.wav`` from Asterisk, ``test/LANGUAGE/*.ogg`` from Tux Paint.
    """
    _copy(packages, {name: _asterisk(packages, name) for name in SHARED_LANGUAGES}, out / "train")
    _copy(packages, {name: _tuxpaint(packages, name) for name in SHARED_LANGUAGES}, out / "test")


def speakers(packages: Path, out: Path) -> None:
    """The five Asterisk languages without a split: with one speaker each, a language is also a voice.

    Args:
        packages: Where the packages were unpacked, in a folder or folders of their own.
        out: The new tree: ``LANGUAGE/*.wav``.
    """
    _copy(packages, {name: _asterisk(packages, name) for name in ASTERISK_LANGUAGES}, out)


def _asterisk(packages: Path, language: str) -> list[Path]:
    folders = packages.glob(f"**/usr/share/asterisk/sounds/{language}_*")
    return sorted(p for folder in folders for p in folder.rglob("*.wav") if p.parent.name != "silence")


def _tuxpaint(packages: Path, language: str) -> list[Path]:
    return sorted(packages.glob(f"**/usr/share/tuxpaint/stamps/**/*_desc_{language}.ogg"))


def _copy(packages: Path, files: dict[str, list[Path]], out: Path, shortest: float = 0.25) -> None:
    """Copy sounds into class folders, but for tones that several classes share and sounds too short to be a word."""
    try:
        import soundfile
    except ImportError as error:
        raise missing_extra("soundfile", "audio") from error

    if missing := [name for name, paths in files.items() if not paths]:
        raise UserError(f"the packages have no sounds for {missing[0]!r}; unpack them with dpkg-deb -x")
    owners = Counter(
        digest for paths in files.values() for digest in {hashlib.sha256(p.read_bytes()).digest() for p in paths}
    )
    for name, paths in files.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        for path in paths:
            if owners[hashlib.sha256(path.read_bytes()).digest()] == 1 and soundfile.info(path).duration >= shortest:
                parts = path.relative_to(packages).parts
                shutil.copyfile(path, out / name / "-".join(parts[parts.index("share") + 1 :]))


def keywords(packages: Path, out: Path, words: Sequence[str] = KEYWORDS, seed: int = 0) -> None:
    """Ten words spoken by every English accent and voice variant of espeak-ng, at random speed and pitch.

    Variants whose names differ in a number only count as one voice; a voice is in one split only.

    Args:
        packages: Not used; espeak-ng is a program.
        out: The new tree: ``{train,val,test}/WORD/VARIANT-ACCENT.wav``.
        words: What to say.
        seed: Seed of the division, the speeds and the pitches.

    Raises:
        UserError: espeak-ng is not installed.
    """
    rng = random.Random(seed)
    splits = _divide(_variants(), rng)
    jobs = []
    for word, accent, (split, variants) in itertools.product(words, ACCENTS, splits.items()):
        (out / split / word).mkdir(parents=True, exist_ok=True)
        for variant in variants:
            target = out / split / word / f"{variant.replace(' ', '_')}-{accent}.wav"
            settings = ["-s", str(rng.randint(120, 200)), "-p", str(rng.randint(20, 80))]
            jobs.append(["espeak-ng", "-v", f"{accent}+{variant}", *settings, "-w", str(target), word])
    with ThreadPoolExecutor() as pool:
        list(pool.map(_run, jobs))


def _variants() -> list[str]:
    lines = _run(["espeak-ng", "--voices=variant"]).splitlines()
    return sorted(found[1] for line in lines if (found := re.search(r"!v/(.+?)\s{2,}|!v/(\S.*?)\s*$", line)))


def _divide(variants: Iterable[str], rng: random.Random) -> dict[str, list[str]]:
    """Seven parts of the voices to train with, one to choose the epoch, two to test."""
    voices: dict[str, list[str]] = {}
    for variant in variants:
        voices.setdefault(re.sub(r"\d+$", "", variant).lower(), []).append(variant)
    names = sorted(voices)
    rng.shuffle(names)
    ends = [round(0.7 * len(names)), round(0.8 * len(names)), len(names)]
    parts = zip(("train", "val", "test"), [0, *ends], ends, strict=False)
    return {split: sorted(v for name in names[a:b] for v in voices[name]) for split, a, b in parts}


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except FileNotFoundError as error:
        raise UserError("espeak-ng is not installed; your system's package manager has it") from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"{' '.join(command)} failed: {error.stderr.strip()}") from error
