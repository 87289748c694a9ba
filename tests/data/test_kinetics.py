import logging
import re
from pathlib import Path

import pytest

from tests.data.trees import write_files
from unireplknet.data.sources.kinetics import load_kinetics
from unireplknet.errors import UserError


def test_kinetics_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_files(tmp_path, "train/a_-1_000003_000013.mp4", "train/b2_000010_000020.mkv", "val/c3.mp4", "train/notes.txt")
    head = "label,youtube_id,time_start,time_end,split\n"
    (tmp_path / "kinetics400_train.csv").write_text(
        head + '"tai chi",a_-1,3,13,train\nabseiling,b2,10,20,train\nabseiling,gone,1,11,train\n'
    )
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "validate.csv").write_text(head + "tai chi,c3,0,10,val\n")
    with caplog.at_level(logging.WARNING):
        data = load_kinetics(tmp_path, (".mkv", ".mp4"))
    assert data.classes == ("abseiling", "tai chi")
    assert {n: (list(s.labels), [f.name for f in s.items]) for n, s in data.splits.items()} == {
        "train": ([1, 0], ["a_-1_000003_000013.mp4", "b2_000010_000020.mkv"]),
        "val": ([1], ["c3.mp4"]),
    }
    text = r"1 of the 3 videos of .*kinetics400_train.csv are not there and are left out; the first: gone_000001_000011"
    assert len(caplog.records) == 1
    assert re.fullmatch(text, caplog.records[0].getMessage())


@pytest.mark.parametrize("separator", [" ", ","])
def test_path_label_lists(tmp_path: Path, separator: str) -> None:
    write_files(tmp_path, "clips/a one.mp4", "clips/b.mp4", "clips/c.mp4")
    lines = [f"clips/a one.mp4{separator}10", f"clips/b.mp4{separator}9", f"{tmp_path / 'clips' / 'c.mp4'}{separator}9"]
    (tmp_path / "train_list.txt").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "test_list.txt").write_text(lines[1] + "\n")
    data = load_kinetics(tmp_path, (".mp4",))
    assert data.classes == ("9", "10")
    assert data.splits["train"].labels.tolist() == [1, 0, 0]
    assert data.splits["train"].items[0] == tmp_path / "clips" / "a one.mp4"
    assert data.splits["test"].labels.tolist() == [0]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"train.csv is missing"),
        ({"train.csv": "label,youtube_id\nx,y\n"}, r"train.csv line 2: expected label,youtube_id,time_start,time_end"),
        ({"train.txt": "a.mp4\n"}, r"train.txt line 1: expected FILE LABEL, not 'a.mp4'"),
        ({"train.txt": "a.mp4 1\n"}, r"train.txt has 1 class\(es\) with videos that are there; expected at least 2"),
        (
            {"train.txt": "a.mp4 1\nb.mp4 2\n", "val.txt": "a.mp4 3\n"},
            r"class '3' in .*val.txt is missing from .*train.txt",
        ),
    ],
)
def test_bad_lists_are_named(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write_files(tmp_path, "a.mp4", "b.mp4")
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load_kinetics(tmp_path, (".mp4",))
