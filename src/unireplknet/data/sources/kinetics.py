"""Kinetics, and lists of videos like its."""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from unireplknet.data.files import find_files
from unireplknet.data.split import SPLITS, LabeledData
from unireplknet.errors import UserError
from unireplknet.registry import Source

logger = logging.getLogger(__name__)


@dataclass
class _List:
    """The lines of an annotation file: labels and files, and how many of these are missing."""

    labels: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def add(self, label: str, name: str, file: Path | None) -> None:
        if file is None or not file.is_file():
            self.missing.append(name)
        else:
            self.labels.append(label)
            self.files.append(file)


SPLIT_WORDS = {"train": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}


def load_kinetics(path: str | Path, extensions: Sequence[str]) -> LabeledData:
    """Read annotation lists as Kinetics has them.

    A list is a .csv or .txt file in ``path`` or ``path/annotations`` whose name contains train, val, validate or test
    as a word. It has either the columns ``label,youtube_id,time_start,time_end,split``, whose videos are
    ``ID_START_END.EXT`` with six digits each (or ``ID.EXT``) anywhere below ``path``, or lines ``FILE LABEL``, parted
    by a space or a comma, with files relative to ``path`` or absolute.

    Videos that are not there are left out and counted in a warning: some of Kinetics' always are.

    Args:
        path: The folder.
        extensions: File name endings of videos, lower case, with the dot.

    Returns:
        The class names, those of the training list in sorted order, and the splits that have a list.

    Raises:
        UserError: There is no training list, a line is not as above, or a list has a class of its own.
    """
    root = Path(path)
    found = sorted(p for folder in (root, root / "annotations") for p in folder.glob("*.*") if p.suffix in _PARTED)
    lists = {SPLIT_WORDS[w]: p for p in found for w in re.split(r"[\W_]+", p.stem.lower()) if w in SPLIT_WORDS}
    if "train" not in lists:
        raise UserError(f"{root / 'train.csv'} is missing; expected lists like train.csv, val.csv, test.csv there")
    videos: dict[str, Path] = {}
    if any(_has_columns(p) for p in lists.values()):
        videos = {p.stem: p for p in find_files(root, extensions)}
    read = {name: _read_list(lists[name], root, videos) for name in SPLITS if name in lists}
    classes = tuple(sorted(set(read["train"].labels), key=lambda c: (int(c), c) if c.isdigit() else (-1, c)))
    if len(classes) < 2:
        raise UserError(
            f"{lists['train']} has {len(classes)} class(es) with videos that are there; expected at least 2"
        )
    samples = {name: (entries.files, entries.labels) for name, entries in read.items()}
    return LabeledData.from_names(samples, classes, lists)


_PARTED = (".csv", ".txt")


def _has_columns(path: Path) -> bool:
    with path.open(encoding="utf-8") as file:
        return "youtube_id" in file.readline()


def _read_list(path: Path, root: Path, videos: dict[str, Path]) -> _List:
    entries = _List()
    with path.open(newline="", encoding="utf-8") as file:
        if _has_columns(path):
            for number, row in enumerate(csv.DictReader(file), 2):
                try:
                    name = row["youtube_id"]
                    cut = f"{name}_{int(float(row['time_start'])):06d}_{int(float(row['time_end'])):06d}"
                    entries.add(row["label"], cut, videos.get(cut) or videos.get(name))
                except (KeyError, TypeError, ValueError) as error:
                    raise UserError(
                        f"{path} line {number}: expected label,youtube_id,time_start,time_end: {error!r}"
                    ) from error
        else:
            for number, line in enumerate(filter(str.strip, file), 1):
                parts = line.strip().rsplit("," if "," in line else None, 1)
                if len(parts) != 2:
                    raise UserError(f"{path} line {number}: expected FILE LABEL, not {line.strip()!r}")
                entries.add(parts[1].strip(), parts[0], root / parts[0].strip())
    if entries.missing:
        total = len(entries.missing) + len(entries.files)
        text = "%d of the %d videos of %s are not there and are left out; the first: %s"
        logger.warning(text, len(entries.missing), total, path, entries.missing[0])
    return entries


KINETICS = Source(lambda path, inputs: load_kinetics(path, inputs.extensions))
