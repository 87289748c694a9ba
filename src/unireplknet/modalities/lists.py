"""Lists of files with their classes, one or several a file."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from unireplknet.errors import UserError
from unireplknet.modalities.folder import SPLITS, Labelled, Split
from unireplknet.registry import Source

HEADER = ["path", "labels"]


def load_list(path: str | Path) -> Labelled:
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
    first = next(iter(lists))
    classes = tuple(sorted({label for _, labels in rows[first] for label in labels}))
    if len(classes) < 2:
        raise UserError(f"{lists[first]} has {len(classes)} class(es); at least 2 are needed")
    number = {name: i for i, name in enumerate(classes)}
    for name, found in rows.items():
        if unknown := {label for _, labels in found for label in labels} - set(classes):
            raise UserError(f"{lists[name]} has class {min(unknown)!r}, which {lists[first]} has not")
    one = all(len(labels) == 1 for found in rows.values() for _, labels in found)

    def split(found: list[tuple[Path, list[str]]]) -> Split:
        items = [file for file, _ in found]
        if one:
            return Split(items, np.asarray([number[labels[0]] for _, labels in found], dtype=np.int64))
        table = np.zeros((len(found), len(classes)), dtype=np.float32)
        for row, (_, labels) in zip(table, found, strict=True):
            row[[number[label] for label in labels]] = 1
        return Split(items, table)

    return Labelled(classes, {name: split(found) for name, found in rows.items()})


def _read(file: Path) -> list[tuple[Path, list[str]]]:
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
