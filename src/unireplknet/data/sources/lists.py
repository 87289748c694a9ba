"""Lists of files with their classes."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unireplknet.data.split import SPLITS, LabeledData, Split
from unireplknet.errors import UserError
from unireplknet.registry import Source

HEADER = ["path", "labels"]

Row = tuple[Path, list[str]]
"""A file and its class names."""


def load_list(path: str | Path) -> LabeledData:
    """Read a CSV file with the columns ``path`` and ``labels``: ``dog/1.wav,animal;loud``.

    Args:
        path: The file, which has no split of its own, or a folder of train.csv and maybe val.csv and test.csv. Files
            lie where the list says, relative to the list.

    Returns:
        The class names in sorted order and the splits. Labels are class indices if every file has one class.

    Raises:
        UserError: A list is missing, is not such a table, or names a class that the first one does not.
    """
    root = Path(path)
    lists = {"all": root} if root.is_file() else {n: root / f"{n}.csv" for n in SPLITS if (root / f"{n}.csv").is_file()}
    if not lists.keys() & {"all", "train"}:
        raise UserError(f"{root} is no CSV file, nor a folder with train.csv")
    rows = {name: _read(file) for name, file in lists.items()}
    if all(len(labels) == 1 for found in rows.values() for _, labels in found):
        samples = {
            name: ([file for file, _ in found], [labels[0] for _, labels in found]) for name, found in rows.items()
        }
        return LabeledData.from_names(samples, places=lists)
    return _multilabel(rows, lists)


def _multilabel(rows: Mapping[str, Sequence[Row]], lists: Mapping[str, Path]) -> LabeledData:
    first = next(iter(lists))
    classes = tuple(sorted({label for _, labels in rows[first] for label in labels}))
    if len(classes) < 2:
        raise UserError(f"{lists[first]} has {len(classes)} class(es); at least 2 are needed")
    index = {name: i for i, name in enumerate(classes)}
    splits = {}
    for name, found in rows.items():
        table = np.zeros((len(found), len(classes)), dtype=np.float32)
        for row, (_, labels) in zip(table, found, strict=True):
            if unknown := set(labels) - set(classes):
                raise UserError(f"class {min(unknown)!r} in {lists[name]} is missing from {lists[first]}")
            row[[index[label] for label in labels]] = 1
        splits[name] = Split([file for file, _ in found], table)
    return LabeledData(classes, splits)


def _read(file: Path) -> list[Row]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            table = csv.reader(stream)
            if next(table, None) != HEADER:
                raise UserError(f"{file} does not begin with the line {','.join(HEADER)}")
            rows = [row for row in table if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not a CSV file: {error}") from error
    if wrong := next((row for row in rows if len(row) != 2 or not row[0]), None):
        raise UserError(f"{file} has the row {','.join(wrong)!r}; expected a path and labels separated by ;")
    return [(file.parent / path, [name.strip() for name in labels.split(";") if name.strip()]) for path, labels in rows]


LIST = Source(lambda path, inputs: load_list(path))
