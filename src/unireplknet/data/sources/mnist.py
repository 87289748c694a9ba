"""MNIST, and data sets in its format."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from unireplknet.data.split import LabeledData, Split
from unireplknet.errors import UserError
from unireplknet.registry import Source


def load_mnist(path: str | Path) -> LabeledData:
    """MNIST, or a data set in its format: four idx-ubyte files in one folder, plain or gzipped.

    Args:
        path: The folder of ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the two ``t10k-`` files.

    Returns:
        The classes and the train and test splits.

    Raises:
        UserError: A file is missing or is not what its header says.
    """
    folder = Path(path)
    splits = {}
    for name, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = _read_idx(folder, f"{prefix}-images", 3), _read_idx(folder, f"{prefix}-labels", 1)
        if len(images) != len(labels):
            raise UserError(f"{folder}: {prefix} has {len(images)} images and {len(labels)} labels")
        splits[name] = Split(list(images), labels.astype(np.int64))
    names = tuple(str(i) for i in range(int(splits["train"].labels.max()) + 1))
    return LabeledData(names, splits)


def _read_idx(folder: Path, stem: str, ndim: int) -> np.ndarray:
    candidates = [folder / f"{stem}{dot}idx{ndim}-ubyte{gz}" for dot in "-." for gz in ("", ".gz")]
    file = next((p for p in candidates if p.is_file()), None)
    if file is None:
        raise UserError(f"{candidates[0]} is missing (nor is there a .gz)")
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    if raw[:4] != bytes([0, 0, 8, ndim]) or len(raw) < 4 + 4 * ndim:
        raise UserError(f"{file} is not an idx file of bytes in {ndim} dimensions")
    shape = np.frombuffer(raw, ">u4", ndim, offset=4).astype(int)
    if len(raw) != 4 + 4 * ndim + shape.prod():
        raise UserError(f"{file} is cut off: {len(raw)} bytes for the shape {tuple(map(int, shape))}")
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


MNIST = Source(lambda path, inputs: load_mnist(path))
