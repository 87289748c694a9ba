from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.trees import write_files
from unireplknet.data.files import distinct_stems, find_files, find_inputs
from unireplknet.errors import UserError


def test_find_files_takes_a_single_file_whatever_its_ending(tmp_path: Path) -> None:
    write_files(tmp_path, "a.odd")
    assert find_files(tmp_path / "a.odd", (".x",)) == [tmp_path / "a.odd"]


def test_what_is_made_of_files_of_one_name_gets_names_of_its_own() -> None:
    files = [Path("a/x.csv"), Path("b/x.csv"), Path("b/x-2.csv"), Path("c/x.png"), Path("y.csv")]
    assert distinct_stems(files) == ["x", "x-2", "x-2-2", "x-3", "y"]


@given(st.lists(st.sampled_from(["x", "x-2", "x-3", "x-2-2", "y"]), max_size=12))
def test_no_two_files_share_a_name_whatever_they_are_called(stems: list[str]) -> None:
    names = distinct_stems([Path(f"{i}/{stem}.csv") for i, stem in enumerate(stems)])
    assert len(set(names)) == len(stems)


def test_inputs_are_files_and_what_lies_in_folders(tmp_path: Path) -> None:
    write_files(tmp_path, "a/1.x", "a/deep/2.x", "a/3.y", "empty/4.y", "alone.z")
    found = find_inputs([tmp_path / "alone.z", str(tmp_path / "a")], (".x",))
    assert [p.name for p in found] == ["alone.z", "1.x", "2.x"]
    with pytest.raises(UserError, match=r"empty has no files ending in .x"):
        find_inputs([tmp_path / "a", tmp_path / "empty"], (".x",))
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        find_inputs([tmp_path / "nowhere"], (".x",))
