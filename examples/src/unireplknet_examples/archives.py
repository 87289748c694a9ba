"""Package archives as carriers of data: obtained by the package manager's own client, verified, unpacked, never run."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

from unireplknet.errors import UserError

INSTALL = {
    "npm": "npm is not installed; it comes with Node.js",
    "apt-get": "apt-get is not here; this data set comes as a Debian package, for Debian, Ubuntu and their kin",
    "dpkg-deb": "dpkg-deb is not installed; it unpacks Debian packages",
}


@dataclass(frozen=True)
class Package:
    """An archive that a package manager knows.

    Attributes:
        manager: Whose package it is: "pip" (a source distribution), "npm" or "apt" (Debian).
        name: The package's name.
        size: Size of the archive in bytes; about that of other versions where none is named.
        version: The version; empty takes the one of the system's release, which its package manager verifies.
        sha256: Checksum of the archive; empty where the version is.
    """

    manager: Literal["pip", "npm", "apt"]
    name: str
    size: int
    version: str = ""
    sha256: str = ""

    @property
    def file(self) -> str:
        """Name of the archive, as a glob pattern."""
        if self.manager == "apt":
            return f"{self.name}_*.deb"
        if self.manager == "npm":
            return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"
        return f"{self.name}-{self.version}.tar.gz"


def obtain(package: Package, folder: Path) -> Path:
    """Download an archive, unless it lies there already.

    Args:
        package: Which.
        folder: Where archives are kept. One in it is complete, as they are moved there once they are.

    Returns:
        The archive, whose checksum is the one that is expected.

    Raises:
        UserError: The client is missing or fails, or the archive is not the one that is expected.
    """
    for file in folder.glob(package.file):
        if not package.sha256 or checksum(file) == package.sha256:
            return file
        file.unlink()
    partial = folder / "partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    DOWNLOADS[package.manager](package, partial)
    files = list(partial.glob(package.file))
    if len(files) != 1:
        raise UserError(f"{package.manager} has brought no {package.file} for {package.name}")
    file = files[0]
    if package.sha256 and (found := checksum(file)) != package.sha256:
        raise UserError(f"{file.name} is not what it should be: its sha256 is {found}, not {package.sha256}")
    return file.replace(folder / file.name)


def checksum(file: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar archive or a Debian package, the latter without installing it.

    Links that lead out of the folder are left out; permissions and owners are not taken over.

    Args:
        archive: The file.
        folder: Where to.

    Raises:
        UserError: The archive is damaged, or a member would be written outside the folder.
    """
    try:
        if archive.suffix == ".deb":
            command = [_client("dpkg-deb"), "--fsys-tarfile", str(archive.resolve())]
            with (
                subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
                tarfile.open(fileobj=process.stdout, mode="r|") as tar,
            ):
                tar.extractall(folder, filter=_contained)
            if process.returncode:
                raise UserError(f"{archive} cannot be unpacked: dpkg-deb finds it damaged")
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(folder, filter=_contained)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{archive} cannot be unpacked: {error}") from error


def _contained(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo | None:
    try:
        return tarfile.data_filter(member, folder)
    except (tarfile.AbsoluteLinkError, tarfile.LinkOutsideDestinationError):
        return None  # Debian packages link to files of others


def _client(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise UserError(INSTALL[name])
    return found


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if re.match(r"E:|npm err", line, re.IGNORECASE)), "".join(lines[-1:]))
        raise UserError(f"{' '.join([Path(command[0]).stem, *command[1:]])} failed: {reason}")


def _npm(package: Package, folder: Path) -> None:
    _run([_client("npm"), "pack", f"{package.name}@{package.version}", "--ignore-scripts"], folder)


def _apt(package: Package, folder: Path) -> None:
    _run([_client("apt-get"), "download", package.name], folder)


def _pip(package: Package, folder: Path) -> None:
    """Take the file from the index: `pip download` would run a source distribution's setup.py."""
    reasons = []
    for index in _indexes():
        page = f"{index.rstrip('/')}/{re.sub(r'[-_.]+', '-', package.name).lower()}/"
        try:
            with urllib.request.urlopen(page, timeout=60) as answer:
                links = _Links(answer.read().decode(), answer.url)
            url = links.urls.get(package.file)
            if url is None:
                reasons.append(f"{index} has no {package.file}")
                continue
            with urllib.request.urlopen(url, timeout=60) as answer, (folder / package.file).open("wb") as file:
                shutil.copyfileobj(answer, file)
            return
        except (OSError, urllib.error.URLError) as error:
            reasons.append(f"{page}: {error}")
    raise UserError(f"no package index has {package.file}: {'; '.join(reasons)}")


def _indexes() -> Iterator[str]:
    """The package indexes that pip would look at, which its configuration and its help text tell."""
    pip = [sys.executable, "-m", "pip"]
    listed = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
    lines = [line.partition("=") for line in listed.splitlines()]
    settings: dict[str, str] = {}
    for section in ("global.", "download.", ":env:."):  # the later ones count more
        settings |= {key.removeprefix(section): ast.literal_eval(value) for key, _, value in lines if section in key}
    if "index-url" not in settings:
        text = subprocess.run([*pip, "download", "--help"], capture_output=True, text=True, check=False).stdout
        if default := re.search(r"--index-url .*?\(default\s+(\S+)\)", text, re.DOTALL):
            settings["index-url"] = default[1]
    yield from settings.get("index-url", "").split()
    yield from settings.get("extra-index-url", "").split()


class _Links(HTMLParser):
    """The files on a page of a simple index (PEP 503), by name."""

    def __init__(self, page: str, base: str) -> None:
        super().__init__()
        self.base = base
        self.urls: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note where a link leads."""
        if tag == "a" and (target := dict(attrs).get("href")):
            url = urllib.parse.urljoin(self.base, target.partition("#")[0])
            self.urls[os.path.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path))] = url


DOWNLOADS: dict[str, Callable[[Package, Path], None]] = {"pip": _pip, "npm": _npm, "apt": _apt}
