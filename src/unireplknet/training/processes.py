"""Which of several training processes this is.

On one machine Lightning starts the others by repeating the command; torchrun and SLURM start all of them themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

RUN = "UNIREPLKNET_RUN"
"""Environment variable that tells the processes which Lightning starts what folder the first one chose."""


def is_first() -> bool:
    """Whether this is the process that writes the run folder."""
    return not any(int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def started_together() -> bool:
    """Whether something else than Lightning has started several processes."""
    return told_folder() is None and any(int(os.environ.get(n, 1)) > 1 for n in ("WORLD_SIZE", "SLURM_NTASKS"))


def told_folder() -> Path | None:
    """The folder that the first process chose, if it has started this one."""
    return Path(os.environ[RUN]) if RUN in os.environ else None


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Tell the folder to the processes that are started inside."""
    before = dict(os.environ)
    os.environ[RUN] = str(path)
    try:
        yield
    finally:
        # Lightning leaves the ranks there, where they would mislead the next training in this process.
        for name in os.environ.keys() - before.keys():
            if name in (RUN, "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
                del os.environ[name]
