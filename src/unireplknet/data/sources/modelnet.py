"""ModelNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unireplknet.data.files import find_files
from unireplknet.data.split import LabeledData
from unireplknet.errors import UserError
from unireplknet.registry import Source


def load_modelnet(path: str | Path, extensions: Sequence[str]) -> LabeledData:
    """ModelNet10 and ModelNet40, as meshes or resampled.

    Args:
        path: The folder of ``CLASS/train/*.off`` and ``CLASS/test/*.off``, or that of the resampled form:
            ``CLASS/SHAPE.txt``, with ``*_train.txt`` and ``*_test.txt`` listing shapes such as ``night_stand_0001``.
        extensions: Endings of the mesh files, lower case, with the dot.

    Returns:
        The classes and the train and test splits.

    Raises:
        UserError: It is neither.
    """
    root = Path(path)
    lists = {name: sorted(root.glob(f"modelnet*_{name}.txt")) for name in ("train", "test")}
    if all(lists.values()):
        # The lists of ModelNet10 lie beside those of ModelNet40, which it is a part of.
        files = {name: [_resampled(root, s) for s in _lines(found[-1])] for name, found in lists.items()}
    else:
        files = {name: [f for f in find_files(root, extensions) if f.parent.name == name] for name in lists}
        files = {name: [f for f in found if len(f.relative_to(root).parts) == 3] for name, found in files.items()}
    if not all(files.values()):
        raise UserError(f"{root} is not ModelNet: expected {root}/CLASS/train/*.off, or modelnet40_train.txt and such")
    samples = {split: (found, [file.relative_to(root).parts[0] for file in found]) for split, found in files.items()}
    return LabeledData.from_names(samples, places={split: f"{root} ({split})" for split in samples})


def _resampled(root: Path, shape: str) -> Path:
    return root / shape.rpartition("_")[0] / f"{shape}.txt"


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").split()


MODELNET = Source(lambda path, inputs: load_modelnet(path, inputs.extensions))
