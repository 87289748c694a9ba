from pathlib import Path

import pytest

from tests.data.trees import write_files
from unireplknet.data.sources.speech_commands import load_speech_commands
from unireplknet.errors import UserError


def write_speech_commands(root: Path, wrong: str = "") -> Path:
    for word in ("bed", "cat", "_background_noise_"):
        write_files(root / word, *(f"{speaker:08x}_nohash_0.wav" for speaker in range(5)))
    (root / "validation_list.txt").write_text("bed/00000001_nohash_0.wav\ncat/00000001_nohash_0.wav\n")
    (root / "testing_list.txt").write_text(f"cat/00000002_nohash_0.wav\nbed/00000002_nohash_0.wav\n{wrong}")
    return root


def test_speech_commands_follow_their_lists(tmp_path: Path) -> None:
    data = load_speech_commands(write_speech_commands(tmp_path), (".wav",))
    assert data.classes == ("bed", "cat")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 6, "val": 2, "test": 2}
    for number, split in ((1, "val"), (2, "test")):
        items, labels = data.splits[split].items, data.splits[split].labels
        assert [(p.parent.name, p.name) for p in items] == [(w, f"0000000{number}_nohash_0.wav") for w in data.classes]
        assert labels.tolist() == [0, 1]
    assert not any("_background_noise_" in str(p) for split in data.splits.values() for p in split.items)
    everything = [p for split in data.splits.values() for p in split.items]
    assert len(everything) == len(set(everything))


def test_speech_commands_with_wrong_lists(tmp_path: Path) -> None:
    root = write_speech_commands(tmp_path / "a", wrong="cat/gone.wav\n")
    with pytest.raises(UserError, match=r"gone.wav is missing, which the list for test names"):
        load_speech_commands(root, (".wav",))
    (root / "testing_list.txt").unlink()
    with pytest.raises(UserError, match=r"testing_list.txt is missing"):
        load_speech_commands(root, (".wav",))
