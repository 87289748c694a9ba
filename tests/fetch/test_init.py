"""Data sets made of tiny archives; nothing comes from a network."""

import json
import shutil
from pathlib import Path

import pytest

from tests.fetch.test_archives import write_tar
from unireplknet import fetch as package
from unireplknet.cli import main
from unireplknet.errors import UserError
from unireplknet.fetch import DATA_SETS, DataSet, archives, fetch
from unireplknet.fetch.archives import Package, checksum


def lay_out(packages: Path, out: Path) -> None:
    out.mkdir()
    for file in (packages / "tiny" / "package").iterdir():
        file.replace(out / file.name)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A data set "tiny"; the list grows with every download."""
    archive, asked = write_tar(tmp_path / "tiny.tgz", ("package/a.txt", b"hello"), ("package/setup.py", b"x")), []

    def npm(wanted: Package, folder: Path) -> None:
        asked.append(wanted.name)
        shutil.copy(archive, folder / wanted.file)

    monkeypatch.setitem(archives.DOWNLOADS, "npm", npm)
    source = Package("npm", "tiny", 100, "1.2", checksum(archive))
    entry = DataSet("two files", "CC0", lay_out, "unireplknet train tiny --data DIR", (source,))
    monkeypatch.setattr(package, "DATA_SETS", {"tiny": entry})
    return asked


def test_a_data_set_is_laid_out_and_says_where_it_came_from(
    tmp_path: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deep" / "data"
    assert main(["fetch", "tiny", "--out", str(out)]) == 0
    assert (out / "a.txt").read_text() == "hello"
    assert sorted(p.name for p in out.parent.iterdir()) == ["data"]
    sha256 = checksum(tmp_path / "tiny.tgz")
    record = json.loads((out / "fetched.json").read_text())
    assert record["packages"] == [
        {
            "manager": "npm",
            "name": "tiny",
            "file": "tiny-1.2.tgz",
            "bytes": (tmp_path / "tiny.tgz").stat().st_size,
            "sha256": sha256,
        }
    ]
    said = capsys.readouterr().out
    for word in ("licence: CC0", f"sha256 {sha256}", "0.0 MB", "tiny-1.2.tgz", f"train tiny --data {out}"):
        assert word in said


def test_nothing_is_fetched_or_changed_twice(tmp_path: Path, tiny: list[str]) -> None:
    said: list[str] = []
    fetch("tiny", tmp_path / "data", said.append)
    (tmp_path / "data" / "a.txt").write_text("mine")
    fetch("tiny", tmp_path / "data", said.append)
    assert "is there already" in said[-1]
    assert (tmp_path / "data" / "a.txt").read_text() == "mine"
    assert len(tiny) == 1


def test_an_interrupted_fetch_goes_on_with_its_archives(
    tmp_path: Path, tiny: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = package.DATA_SETS["tiny"]

    def stop(packages: Path, out: Path) -> None:
        lay_out(packages, out)
        raise KeyboardInterrupt

    monkeypatch.setitem(package.DATA_SETS, "tiny", DataSet("", "", stop, "", entry.packages))
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", tmp_path / "data", lambda line: None)
    assert not (tmp_path / "data").exists()
    monkeypatch.setitem(package.DATA_SETS, "tiny", entry)
    (tmp_path / "data").mkdir()
    fetch("tiny", tmp_path / "data", lambda line: None)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["a.txt", "fetched.json", "setup.py"]
    assert not (tmp_path / "data.part").exists()
    assert len(tiny) == 1


def test_other_things_are_never_overwritten(tmp_path: Path, tiny: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    for out in (tmp_path / "mine", tmp_path / "mine" / "a.txt"):
        with pytest.raises(UserError, match="nothing is ever overwritten"):
            fetch("tiny", out, lambda line: None)
    (tmp_path / "mine" / "fetched.json").write_text('{"name": "other"}')
    with pytest.raises(UserError, match=r"mine holds other; nothing is ever overwritten"):
        fetch("tiny", tmp_path / "mine", lambda line: None)
    assert not tiny


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no data set 'minst'; there are mnist, "):
        fetch("minst", tmp_path / "x", lambda line: None)


def test_help_lists_names_sizes_and_licences(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fetch", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, entry in DATA_SETS.items():
        assert f"{name} " in said
        assert entry.licence in said
    assert "11.5 MB" in said


@pytest.mark.parametrize("name", DATA_SETS)
def test_versions_are_pinned_with_their_checksums(name: str) -> None:
    for source in DATA_SETS[name].packages:
        assert (source.version != "") == (len(source.sha256) == 64) == (source.manager != "apt")
