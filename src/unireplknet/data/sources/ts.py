"""The UCR / UEA archive of time series."""

from __future__ import annotations

from pathlib import Path

from unireplknet.data.series.ts import read_ts
from unireplknet.data.split import LabeledData
from unireplknet.errors import UserError
from unireplknet.registry import Source


def load_ts(path: Path) -> LabeledData:
    """A data set of the UCR / UEA archive: ``NAME_TRAIN.ts`` and ``NAME_TEST.ts`` in one folder.

    Raises:
        UserError: A file is missing or malformed.
    """
    samples = {}
    for split in ("train", "test"):
        files = sorted(path.glob(f"*_{split.upper()}.ts"))
        if len(files) != 1:
            raise UserError(f"{path} has {len(files)} files named *_{split.upper()}.ts, expected 1")
        cases = read_ts(files[0])
        if unlabeled := [i for i, (_, label) in enumerate(cases, 1) if not label]:
            raise UserError(f"{files[0]}: series {unlabeled[0]} has no class label")
        samples[split] = [case.values for case, _ in cases], [label for _, label in cases]
    return LabeledData.from_names(samples, places={split: f"{path} ({split})" for split in samples})


TS = Source(lambda path, inputs: load_ts(path))
