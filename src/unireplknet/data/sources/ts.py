"""The UCR / UEA archive of time series."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unireplknet.data.series.ts import read_ts
from unireplknet.data.split import Labelled, Split
from unireplknet.errors import UserError


def load_ts(path: Path) -> Labelled:
    """A data set of the UCR / UEA archive: ``NAME_TRAIN.ts`` and ``NAME_TEST.ts`` in one folder.

    Raises:
        UserError: A file is missing or malformed.
    """
    splits, labels = {}, {}
    for split in ("train", "test"):
        files = sorted(path.glob(f"*_{split.upper()}.ts"))
        if len(files) != 1:
            raise UserError(f"{path} has {len(files)} files named *_{split.upper()}.ts, expected 1")
        cases = read_ts(files[0])
        if unlabelled := [i for i, (_, label) in enumerate(cases, 1) if not label]:
            raise UserError(f"{files[0]}: series {unlabelled[0]} has no class label")
        splits[split], labels[split] = [case.values for case, _ in cases], [label for _, label in cases]
    classes = tuple(sorted(set(labels["train"])))
    if unknown := set(labels["test"]) - set(classes):
        raise UserError(f"{path}: class {min(unknown)!r} is only in the test part")
    index = {name: i for i, name in enumerate(classes)}
    return Labelled(
        classes,
        {s: Split(splits[s], np.array([index[label] for label in labels[s]], np.int64)) for s in splits},
    )
