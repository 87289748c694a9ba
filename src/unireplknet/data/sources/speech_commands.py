"""Speech Commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unireplknet.data.files import find_files
from unireplknet.data.split import SPLITS, LabeledData
from unireplknet.errors import UserError
from unireplknet.registry import Source


def load_speech_commands(path: str | Path, extensions: Sequence[str]) -> LabeledData:
    """Speech Commands in its own layout: ``PATH/WORD/*.wav``, validation_list.txt and testing_list.txt.

    What neither list names is for training, as the data set's authors say; folders whose name begins with an
    underscore, such as ``_background_noise_``, are no words.

    Args:
        path: The folder that the archive unpacks to.
        extensions: File name endings of sounds, lower case, with the dot.

    Returns:
        The words in sorted order and the splits train, val and test.

    Raises:
        UserError: A list is missing, or names a file that is.
    """
    root = Path(path)
    named = {"val": _read_list(root / "validation_list.txt"), "test": _read_list(root / "testing_list.txt")}
    classes = tuple(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith(("_", "."))))
    files = {f"{name}/{p.name}": p for name in classes for p in find_files(root / name, extensions)}
    for split, names in named.items():
        if lost := next((name for name in names if name not in files), None):
            raise UserError(f"{root / lost} is missing, which the list for {split} names")
    named["train"] = sorted(files.keys() - {*named["val"], *named["test"]})
    samples = {
        split: ([files[name] for name in named[split]], [name.partition("/")[0] for name in named[split]])
        for split in SPLITS
    }
    return LabeledData.from_names(samples, classes)


def _read_list(path: Path) -> list[str]:
    if not path.is_file():
        raise UserError(f"{path} is missing; Speech Commands says there which files are not for training")
    return sorted(path.read_text(encoding="utf-8").split())


SPEECH_COMMANDS = Source(lambda path, inputs: load_speech_commands(path, inputs.extensions))
