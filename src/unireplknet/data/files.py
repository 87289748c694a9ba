"""Files that a user names, by their endings."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from unireplknet.errors import UserError


def find_files(root: Path, extensions: Sequence[str]) -> list[Path]:
    """All files below ``root`` (or ``root`` itself) with one of the extensions, sorted; hidden ones are left out."""
    if root.is_file():
        return [root]
    found = (p for p in root.rglob("*") if p.suffix.lower() in extensions and p.is_file())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(root).parts))


def find_inputs(paths: Iterable[str | Path], extensions: Sequence[str]) -> list[Path]:
    """The files that a user names, and those in the folders that a user names.

    Raises:
        UserError: A path does not exist, or is a folder without such files.
    """
    files = []
    for path in map(Path, paths):
        if not path.exists():
            raise UserError(f"{path} does not exist")
        found = find_files(path, extensions)
        if not found:
            raise UserError(f"{path} has no files ending in {' '.join(extensions)}")
        files += found
    return files


def distinct_stems(files: Iterable[Path]) -> list[str]:
    """Names for what is made of files, without endings; those of the same name from several folders get a number."""
    taken: dict[str, None] = {}
    for file in files:
        names = itertools.chain([file.stem], (f"{file.stem}-{number}" for number in itertools.count(2)))
        taken[next(name for name in names if name not in taken)] = None
    return list(taken)
