import math
from pathlib import Path

import numpy as np
import pytest

from unireplknet.data.dataset import Draw, MapDataset
from unireplknet.data.series.ts import read_ts
from unireplknet.data.sources.ts import load_ts
from unireplknet.errors import UserError
from unireplknet.modalities.series import SeriesInput

TS = """# a comment
@problemName Sway
@timeStamps false
@classLabel true up down
@data
1,2,?,4:5,6:up
-1.5,2e1:0,1,2:down
"""


def test_ts_files_are_read_by_their_definition(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_text(TS)
    (first, up), (second, down) = read_ts(tmp_path / "a.ts")
    assert (up, down) == ("up", "down")
    np.testing.assert_array_equal(first.values[:, 0].T, [[1, 2, math.nan, 4], [5, 6, math.nan, math.nan]])
    np.testing.assert_array_equal(second.values[:, 0].T, [[-1.5, 20, math.nan], [0, 1, 2]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n", r"a.ts has no @data line: it is not a .ts file"),
        ("@timestamps true\n@data\n", r"a.ts line 1: series with time stamps are not read"),
        ("@data\n1,2\n1,b\n", r"a.ts line 3: could not convert string to float: 'b'"),
        ("@classLabel true a\n@data\na\n", r"a.ts line 3 has a class label and no numbers"),
    ],
)
def test_bad_ts_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.ts").write_text(text)
    with pytest.raises(UserError, match=message):
        read_ts(tmp_path / "a.ts")


def test_an_archive_of_ts_files(tmp_path: Path) -> None:
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"Sway_{part}.ts").write_text(TS)
    data = load_ts(tmp_path)
    assert data.classes == ("down", "up")
    assert data.splits["test"].labels.tolist() == [1, 0]
    assert data.splits["train"].fingerprint() == data.splits["test"].fingerprint()
    inputs = SeriesInput(past=12, channels=2)
    sample = MapDataset(data.splits["train"], inputs.read, inputs.to_map)[Draw(0, 1)]
    assert sample.map is not None
    assert sample.map.shape == (2, 3, 4)
    (tmp_path / "Sway_TEST.ts").write_text(TS.replace(":up", ":sideways"))
    with pytest.raises(UserError, match=r"class 'sideways' in .* \(test\) is missing from"):
        load_ts(tmp_path)
    (tmp_path / "Sway_TEST.ts").unlink()
    with pytest.raises(UserError, match=r"has 0 files named \*_TEST.ts, expected 1"):
        load_ts(tmp_path)
