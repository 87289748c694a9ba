"""Class-per-folder trees."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from unireplknet.data.files import find_files
from unireplknet.data.split import SPLITS, LabeledData
from unireplknet.errors import UserError
from unireplknet.registry import Source


def load_folder(path: str | Path, extensions: Sequence[str]) -> LabeledData:
    """Find the files of a class-per-folder tree.

    There are two layouts: ``path/CLASS/FILE``, which does not define splits, and
    ``path/{train,val,test}/CLASS/FILE``, where ``val`` and ``test`` may be missing. Files may lie deeper inside a class
    folder.

    Args:
        path: The root of the tree.
        extensions: File name endings of the modality, lower case, with the dot.

    Returns:
        The class names in sorted order and the splits of the tree.

    Raises:
        UserError: The tree is missing or empty, a class has no files, or the splits disagree about the classes.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected {root}/CLASS/FILE or {root}/train/CLASS/FILE")
    folders = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if "train" not in folders:
        folders = {"all": root}
    first = next(iter(folders.values()))
    classes = _class_names(first)
    if len(classes) < 2:
        raise UserError(f"{first} has 1 class folder; at least 2 are needed")
    samples = {name: _samples(folder, extensions) for name, folder in folders.items()}
    if empty := sorted(set(classes) - set(next(iter(samples.values()))[1])):
        wanted = " ".join(extensions)
        raise UserError(f"class {empty[0]!r} has no files: {first / empty[0]} (looked for {wanted})")
    return LabeledData.from_names(samples, classes, folders)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise UserError(f"{folder} has no class folders; expected {folder}/CLASS/FILE")
    return names


def _samples(folder: Path, extensions: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Files and their class names, class by class."""
    found = [(file, name) for name in _class_names(folder) for file in find_files(folder / name, extensions)]
    return [file for file, _ in found], [name for _, name in found]


def load_grouped(
    path: str | Path, extensions: Sequence[str], seed: int = 0, fold: int = 0, folds: int = 5
) -> LabeledData:
    """Find the files of a class-per-folder tree of related samples; related ones stay in one split.

    Args:
        path: The root of the tree ``path/CLASS/FILE``, with ``path/groups.csv``, whose columns ``file`` (such as
            ``CLASS/FILE``) and ``group`` say which samples belong together.
        extensions: File name endings of the modality, lower case, with the dot.
        seed: Seed of the division.
        fold: Which of the parts is the test split.
        folds: How many parts of similar size and class frequencies there are.

    Returns:
        The class names and the train and test splits.

    Raises:
        UserError: The tree or the table is not like that.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    data, table = load_folder(path, extensions), Path(path) / "groups.csv"
    if "all" not in data.splits:
        raise UserError(f"{path} is divided already; data.source folder reads it")
    try:
        with table.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"file", "group"} <= set(reader.fieldnames or ()):
                raise UserError(f"{table} is not a table with the columns file and group")
            group_of = {row["file"]: row["group"] for row in reader}
    except OSError as error:
        raise UserError(f"{table} is not a table that can be read: {error}") from error
    split = data.splits["all"]
    names = [item.relative_to(path).as_posix() for item in split.items]
    if missing := [name for name in names if name not in group_of]:
        raise UserError(f"{table} does not name {missing[0]}")
    division = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    train, test = list(division.split(split.labels, split.labels, [group_of[name] for name in names]))[fold]
    return LabeledData(data.classes, {"train": split.take(train), "test": split.take(test)})


FOLDER = Source(lambda path, inputs: load_folder(path, inputs.extensions))

GROUPED = Source(lambda path, inputs: load_grouped(path, inputs.extensions))
