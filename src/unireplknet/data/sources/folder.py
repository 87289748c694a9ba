"""One folder a class."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from unireplknet.data.files import find_files
from unireplknet.data.split import SPLITS, Labelled, Split
from unireplknet.errors import UserError


def load_folder(path: str | Path, extensions: Sequence[str]) -> Labelled:
    """Read the names in a class-per-folder tree.

    Two layouts: ``path/CLASS/FILE``, which has no split of its own, and ``path/{train,val,test}/CLASS/FILE``, where
    ``val`` and ``test`` may be missing. Files may lie deeper inside a class folder.

    Args:
        path: The root of the tree.
        extensions: File name endings of the modality, lower case, with the dot.

    Returns:
        The class names in sorted order and the splits that the tree has.

    Raises:
        UserError: The tree is missing or empty, a class has no file, or the splits disagree about the classes.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; expected {root}/CLASS/FILE or {root}/train/CLASS/FILE")
    splits = {name: root / name for name in SPLITS if (root / name).is_dir()}
    if "train" not in splits:
        splits = {"all": root}
    first, *others = splits.values()
    classes = _class_names(first)
    if len(classes) < 2:
        raise UserError(f"{first} has 1 class folder; at least 2 are needed")
    for folder in others:
        if unknown := sorted(set(_class_names(folder)) - set(classes)):
            raise UserError(f"{folder} has class {unknown[0]!r}, which {first} has not")
    return Labelled(
        classes,
        {name: _load_split(folder, classes, extensions, complete=folder is first) for name, folder in splits.items()},
    )


def _class_names(folder: Path) -> tuple[str, ...]:
    names = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
    if not names:
        raise UserError(f"{folder} has no class folders; expected {folder}/CLASS/FILE")
    return names


def _load_split(folder: Path, classes: Sequence[str], extensions: Sequence[str], complete: bool) -> Split:
    items: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        files = find_files(folder / name, extensions)
        if complete and not files:
            wanted = " ".join(extensions)
            raise UserError(f"class {name!r} has no files: {folder / name} (looked for {wanted})")
        items += files
        labels += [label] * len(files)
    return Split(items, np.asarray(labels, dtype=np.int64))


def load_grouped(path: str | Path, extensions: Sequence[str], seed: int = 0, fold: int = 0, folds: int = 5) -> Labelled:
    """Read a class-per-folder tree of related samples, and divide it so that relatives stay on one side.

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
    return Labelled(data.classes, {"train": split.take(train), "test": split.take(test)})
