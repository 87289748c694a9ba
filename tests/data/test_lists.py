from pathlib import Path

import numpy as np
import pytest

from unireplknet.data.sources.lists import load_list
from unireplknet.errors import UserError
from unireplknet.modalities import SOURCES


def write(path: Path, *rows: str, header: str = "path,labels") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_several_labels_become_ones_in_a_table(tmp_path: Path) -> None:
    data = load_list(
        write(tmp_path / "a.csv", "x/1.wav,dog;loud", '"with, comma.wav",cat', "3.wav,", "4.wav, loud ;cat")
    )
    assert data.classes == ("cat", "dog", "loud")
    assert data.multilabel
    split = data.splits["all"]
    assert split.items == [tmp_path / name for name in ("x/1.wav", "with, comma.wav", "3.wav", "4.wav")]
    np.testing.assert_array_equal(split.labels, [[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 0, 1]])


def test_one_label_each_is_an_ordinary_data_set(tmp_path: Path) -> None:
    for name, rows in {"train": ["1.wav,b", "2.wav,a", "3.wav,b"], "test": ["4.wav,b"]}.items():
        write(tmp_path / f"{name}.csv", *rows)
    data = SOURCES["list"](tmp_path, None)
    assert not data.multilabel
    assert data.splits["train"].labels.tolist() == [1, 0, 1]
    assert data.splits["test"].labels.tolist() == [1]


def test_division_of_several_labels_loses_and_repeats_nothing(tmp_path: Path) -> None:
    rows = [f"{i}.wav,{'a;b' if i % 3 else 'b'}" for i in range(40)]
    data = load_list(write(tmp_path / "a.csv", *rows)).split(0.2, 0.25, 0)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 24, "val": 6, "test": 10}
    items = [(item.name, tuple(row)) for s in data.splits.values() for item, row in zip(s.items, s.labels, strict=True)]
    assert sorted(items) == sorted((f"{i}.wav", (1.0, 1.0) if i % 3 else (0.0, 1.0)) for i in range(40))


@pytest.mark.parametrize(
    ("rows", "header", "message"),
    [
        (["1.wav,a"], "path,labels", r"a.csv has 1 class\(es\)"),
        (["1.wav,a"], "file,label", r"does not begin with the line path,labels"),
        (["1.wav,a,b"], "path,labels", r"has the row '1.wav,a,b'"),
        ([",a"], "path,labels", r"has the row ',a'"),
    ],
)
def test_tables_that_are_not_lists(tmp_path: Path, rows: list[str], header: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_list(write(tmp_path / "a.csv", *rows, header=header))


def test_missing_lists_and_unknown_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no CSV file, nor a folder with train.csv"):
        load_list(tmp_path)
    write(tmp_path / "train.csv", "1.wav,a", "2.wav,b")
    write(tmp_path / "val.csv", "1.wav,c")
    with pytest.raises(UserError, match=r"class 'c' in .*val.csv is missing from .*train.csv"):
        load_list(tmp_path)
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b.csv is not a CSV file"):
        load_list(tmp_path / "b.csv")
