"""Videos from package archives, and videos that are rendered."""

from __future__ import annotations

from pathlib import Path


def emoji_anim(packages: Path, out: Path) -> None:
    """The animated webp files, all in one folder."""
    out.mkdir()
    for file in (packages / "@lobehub/fluent-emoji-anim-1" / "package" / "assets").glob("*.webp"):
        file.replace(out / file.name)


def motion(packages: Path, out: Path) -> None:
    """Moving digits in ``{train,test}/DIRECTION/*.mp4``."""
