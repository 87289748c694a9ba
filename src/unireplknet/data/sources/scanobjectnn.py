"""ScanObjectNN."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unireplknet.data.hdf5 import read_array
from unireplknet.data.split import LabeledData, Split
from unireplknet.errors import UserError
from unireplknet.registry import Source

CLASSES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
"""Class names in the order of the labels."""


def load_scanobjectnn(path: str | Path) -> LabeledData:
    """ScanObjectNN: HDF5 files of 2,048 points a scan.

    Args:
        path: ``training_objectdataset*.h5``, beside which the test file lies under the same name but for ``test``; or
            their folder, for the files without anything after ``objectdataset``.

    Returns:
        The classes and the train and test splits; an item is ``FILE.h5/INDEX``.

    Raises:
        UserError: The files are missing or are not what they should be.
    """
    file = Path(path)
    if file.suffix != ".h5":
        file = file / "training_objectdataset.h5"
    splits = {}
    for name, source in {"train": file, "test": file.with_name(file.name.replace("training", "test", 1))}.items():
        if not source.is_file():
            raise UserError(f"{source} is missing; expected training_objectdataset.h5 and test_objectdataset.h5")
        labels = read_array(source, "label").astype(np.int64).reshape(-1)
        if not len(labels) or not 0 <= labels.min() <= labels.max() < len(CLASSES):
            raise UserError(f"{source} has other labels than 0 to {len(CLASSES) - 1}")
        splits[name] = Split([source / str(i) for i in range(len(labels))], labels)
    return LabeledData(CLASSES, splits)


SCANOBJECTNN = Source(lambda path, inputs: load_scanobjectnn(path))
