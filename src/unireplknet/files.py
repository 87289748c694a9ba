"""Files that hold either the old content or the new, whatever happens in between."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

UNFINISHED = ".tmp"
"""Ending of a file that is being written. One that is found was left behind by a crash and means nothing."""

DISK_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
"""Error numbers that say that a file cannot grow."""


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[BinaryIO]:
    """Write a file that takes the place of ``path`` only once it is complete and on the disk.

    Args:
        path: The file to replace; it need not exist.
        keep: Where the file that is replaced goes; by default it is gone.

    Yields:
        The new file, open for writing bytes. After an exception ``path`` is what it was.
    """
    new = path.with_name(path.name + UNFINISHED)
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def replacing_together(*paths: Path) -> Iterator[Path]:
    """Write files that belong together, which take their places only once all are complete and on the disk.

    Args:
        paths: The files to replace, all in one folder; they need not exist. The first one is what readers open: it
            never stands beside others that are not its own.

    Yields:
        A new folder, in which to write them under their names. After an exception ``paths`` are what they were.
    """
    folder = paths[0].with_name(paths[0].name + UNFINISHED)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
        made = [folder / path.name for path in paths]
        for new in made:
            with new.open("r+b") as file:
                os.fsync(file.fileno())
        if len(paths) > 1:
            paths[0].unlink(missing_ok=True)
        for new, path in zip(reversed(made), reversed(paths), strict=True):
            os.replace(new, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    _sync_folder(paths[0].parent)


def write_text(path: Path, text: str) -> None:
    """Replace a text file as :func:`replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


def _sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk, where the system knows how to."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
