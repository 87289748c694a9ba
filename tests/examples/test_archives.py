"""Archives made here; nothing comes from a network."""

import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.examples.packages import write_tar
from unireplknet.errors import UserError
from unireplknet_examples import archives
from unireplknet_examples.archives import Package, checksum, obtain, unpack


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def downloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces npm by a copy of a tiny archive, and says how often it was asked."""
    archive, asked = write_tar(tmp_path / "tiny.tgz", ("package/a.txt", b"hello")), []

    def npm(package: Package, folder: Path) -> None:
        asked.append(package.name)
        shutil.copy(archive, folder / package.file)

    monkeypatch.setitem(archives.DOWNLOADS, "npm", npm)
    return asked


def tiny(tmp_path: Path, sha256: str | None = None) -> Package:
    return Package("npm", "@some/tiny", 0, "1.2", checksum(tmp_path / "tiny.tgz") if sha256 is None else sha256)


def test_checksum(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert checksum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_archive_is_fetched_once(tmp_path: Path, downloads: list[str]) -> None:
    package, folder = tiny(tmp_path), tmp_path / "kept"
    file = obtain(package, folder)
    assert file == folder / "some-tiny-1.2.tgz"
    assert obtain(package, folder) == file
    assert downloads == ["@some/tiny"]


@pytest.mark.parametrize("content", [b"", b"cut o"])
def test_a_partial_one_is_redone(tmp_path: Path, downloads: list[str], content: bytes) -> None:
    package, folder = tiny(tmp_path), tmp_path / "kept"
    obtain(package, folder).write_bytes(content)
    (folder / "partial" / "rest").mkdir(parents=True)  # as after a kill in the middle of a download
    assert checksum(obtain(package, folder)) == package.sha256
    assert len(downloads) == 2


def test_what_is_not_expected_is_refused_and_not_kept(tmp_path: Path, downloads: list[str]) -> None:
    package, folder = tiny(tmp_path, "0" * 64), tmp_path / "kept"
    for _ in range(2):
        with pytest.raises(
            UserError, match=rf"some-tiny-1.2.tgz is not what it should be: its sha256 is .*, not {'0' * 64}"
        ):
            obtain(package, folder)
    assert not list(folder.glob("*.tgz"))
    assert len(downloads) == 2


@pytest.mark.parametrize(("manager", "tool"), [("npm", "npm is not installed"), ("apt", "apt-get is not here")])
def test_a_missing_tool_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: str, tool: str) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=tool) as error:
        obtain(Package(manager, "x", 0, "1"), tmp_path)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_tool_that_fails_tells_why(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write('warn: odd\\nE: Unable to locate package x\\nmore\\n'); sys.exit(100)"
    with pytest.raises(UserError, match=r"failed: E: Unable to locate package x$"):
        archives._run([sys.executable, "-c", script], tmp_path)


def test_source_distributions_come_from_the_configured_index_unbuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = b"raise SystemExit('this must never run')"
    (tmp_path / "files").mkdir()
    sdist = write_tar(tmp_path / "files" / "odd_data-0.1.tar.gz", ("odd_data-0.1/setup.py", setup))
    page = tmp_path / "index" / "odd-data"
    page.parent.mkdir()
    page.write_text(
        '<html><body><a href="../files/odd_data-0.1.tar.gz#sha256=0">odd_data-0.1.tar.gz</a><br></body></html>'
    )
    indexes = [(tmp_path / "nowhere").as_uri(), page.parent.as_uri()]
    monkeypatch.setattr(archives, "_indexes", lambda: indexes)
    opened = archives.urllib.request.urlopen
    monkeypatch.setattr(archives.urllib.request, "urlopen", lambda url, **options: opened(url.rstrip("/"), **options))
    package = Package("pip", "odd_data", 0, "0.1", checksum(sdist))
    assert checksum(obtain(package, tmp_path / "kept")) == package.sha256
    with pytest.raises(UserError, match=r"no package index has other-2.tar.gz: .*nowhere.*index"):
        obtain(Package("pip", "other", 0, "2"), tmp_path / "kept")


def test_the_index_is_the_one_of_pips_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "file:///mirror/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "file:///second file:///third")
    assert list(archives._indexes()) == ["file:///mirror/simple", "file:///second", "file:///third"]
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null" if Path("/dev/null").exists() else "nul")
    default, *others = archives._indexes()
    assert default.startswith("https://")
    assert others == ["file:///second", "file:///third"]


def test_unpacking_keeps_links_that_stay_inside(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("d/a.txt", b"hello"), link("d/b.txt", "a.txt"))
    unpack(archive, tmp_path / "out")
    assert (tmp_path / "out" / "d" / "a.txt").read_bytes() == b"hello"
    assert (tmp_path / "out" / "d" / "b.txt").read_bytes() == b"hello"


@pytest.mark.parametrize("target", ["/etc/passwd", "../../outside.txt"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_that_lead_out_are_left_out(tmp_path: Path, target: str, kind: bytes) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", link("d/b.txt", target, kind), ("d/c.txt", b""))
    unpack(archive, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out" / "d").iterdir()] == ["c.txt"]


@pytest.mark.parametrize("name", ["../outside.txt", "d/../../outside.txt"])
def test_members_that_would_be_written_outside_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"cannot be unpacked: .* outside the destination"):
        unpack(write_tar(tmp_path / "a.tar.gz", (name, b"x")), tmp_path / "out")
    assert not (tmp_path / "outside.txt").exists()


def test_absolute_names_land_inside(tmp_path: Path) -> None:
    unpack(write_tar(tmp_path / "a.tar.gz", (f"{tmp_path.as_posix()}/outside.txt", b"x")), tmp_path / "out")
    assert not (tmp_path / "outside.txt").exists()


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", ("a", bytes(range(256)) * 400))
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(UserError, match=r"a.tar.gz cannot be unpacked: "):
        unpack(archive, tmp_path / "out")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb makes the package of this test")
def test_debian_packages_are_unpacked_without_their_scripts(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    )
    (tree / "DEBIAN" / "postinst").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    (tree / "DEBIAN" / "postinst").chmod(0o755)
    (tree / "usr").mkdir()
    (tree / "usr" / "a.txt").write_text("hello")
    (tree / "usr" / "out.txt").symlink_to("/etc/passwd")
    archive = tmp_path / "tiny_1_all.deb"
    subprocess.run(["dpkg-deb", "--build", str(tree), str(archive)], check=True, capture_output=True)
    unpack(archive, tmp_path / "out")
    assert [p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*")] == ["usr/a.txt"]
    assert not (tmp_path / "ran").exists()
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(UserError, match=r"tiny_1_all.deb cannot be unpacked"):
        unpack(archive, tmp_path / "again")
