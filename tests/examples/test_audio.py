import os
import random
import stat
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unireplknet.data.sources.folder import load_folder
from unireplknet.errors import UserError
from unireplknet.modalities.audio import AudioInput
from unireplknet_examples.layouts.audio import _divide, keywords, language, speakers


def write(path: Path, seconds: float = 0.5, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, int(8000 * seconds)), 8000)


def write_packages(root: Path) -> Path:
    """The folders of the packages, each with a tone, silence, a click and some words."""
    for i, voice in enumerate(("en_US_f_A", "es_MX_f_B", "fr_CA_f_C", "it_IT_m_D", "ru_RU_f_E")):
        folder = root / f"asterisk-core-sounds-{voice[:2]}-wav" / "usr" / "share" / "asterisk" / "sounds" / voice
        write(folder / "beep.wav")
        write(folder / "silence" / "1.wav", seed=100 + i)
        write(folder / "click.wav", 0.1, seed=200 + i)
        for name in ("digits/1.wav", "letters/1.wav"):
            write(folder / name, seed=10 * i + len(name))
    stamps = root / "tuxpaint-stamps-default" / "usr" / "share" / "tuxpaint" / "stamps"
    for i, name in enumerate(("es", "fr", "ru", "ro")):
        write(stamps / "animals" / f"dog_desc_{name}.ogg", seed=50 + i)
        write(stamps / "food" / f"dog_desc_{name}.ogg", seed=60 + i)
    write(stamps / "animals" / "dog.ogg", seed=70)
    return root


def test_languages_are_split_by_package(tmp_path: Path) -> None:
    language(write_packages(tmp_path / "packages"), tmp_path / "out")
    data = load_folder(tmp_path / "out", AudioInput.extensions)
    assert data.classes == ("es", "fr", "ru")
    names = {split: [p.name for p in part.items] for split, part in data.splits.items()}
    assert names["train"][:2] == ["asterisk-sounds-es_MX_f_B-digits-1.wav", "asterisk-sounds-es_MX_f_B-letters-1.wav"]
    assert names["test"][-1] == "tuxpaint-stamps-food-dog_desc_ru.ogg"
    assert all(len(part) == 6 for part in data.splits.values())


def test_speakers_are_the_five_languages_of_one_package(tmp_path: Path) -> None:
    speakers(write_packages(tmp_path / "packages"), tmp_path / "out")
    data = load_folder(tmp_path / "out", AudioInput.extensions)
    assert data.classes == ("en", "es", "fr", "it", "ru")
    assert len(data.splits["all"]) == 10


def test_missing_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sounds for 'es'; unpack them with dpkg-deb -x"):
        language(tmp_path, tmp_path / "out")


def test_voices_that_differ_in_a_number_stay_together() -> None:
    variants = [f"v{name}{number}" for name in "abcdefghij" for number in ("", 2, 3)]
    splits = _divide(variants, random.Random(0))
    assert sorted(v for part in splits.values() for v in part) == sorted(variants)
    assert {name: len(part) for name, part in splits.items()} == {"train": 21, "val": 3, "test": 6}
    voices = [{v[:2] for v in part} for part in splits.values()]
    assert sum(map(len, voices)) == len(set.union(*voices))


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for espeak-ng is a script")
def test_keywords_are_spoken_by_every_accent_and_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin" / "espeak-ng"
    fake.parent.mkdir()
    fake.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys\n"
        "if '--voices=variant' in sys.argv:\n"
        "    print('Pty Language       Age/Gender VoiceName          File                 Other Languages')\n"
        "    print(*(f' 5  variant   --/M   N   !v/voice {c}    (en 5)' for c in 'abcdefghij'), sep='\\n')\n"
        "else:\n"
        "    pathlib.Path(sys.argv[sys.argv.index('-w') + 1]).write_text(' '.join(sys.argv[1:]))\n"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    keywords(tmp_path, tmp_path / "a", words=("yes", "no"))
    files = sorted((tmp_path / "a").rglob("*.wav"))
    assert len(files) == 2 * 7 * 10
    for file in files:
        said = file.read_text()
        assert said.endswith(f" {file.parent.name}")
        accent = file.stem.partition("-")[2]
        assert said.startswith(f"-v {accent}+voice {file.stem[6]} -s ")
    voices = [{p.name[:7] for p in (tmp_path / "a" / split).rglob("*.wav")} for split in ("train", "val", "test")]
    assert [len(v) for v in voices] == [7, 1, 2]
    assert len(set.union(*voices)) == 10
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"espeak-ng is not installed"):
        keywords(tmp_path, tmp_path / "b")
