"""Checkpoints of a run: written so that one is always whole, read so that a bad one is noticed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from unireplknet.errors import UserError
from unireplknet.files import replacing
from unireplknet.models.weights import WeightsError, load_checked
from unireplknet.training.recipe import upgrade

logger = logging.getLogger(__name__)

BEST, LAST, PREVIOUS, DAMAGED = "best.ckpt", "last.ckpt", "previous.ckpt", "damaged.ckpt"

SECTION = "unireplknet"
"""Key of what this package adds to Lightning's checkpoints."""


class SafeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside the old one, and keeps the last but one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Replace ``path`` at once; what was in last.ckpt goes to previous.ckpt."""
        path = Path(path)
        with replacing(path, keep=path.with_name(PREVIOUS) if path.name == LAST else None) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # "unexpected pos", after what really went wrong
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from error
                raise


@dataclass(frozen=True)
class State:
    """Where an interrupted run goes on.

    Attributes:
        path: The checkpoint.
        epoch: Epochs that were finished.
        batch: Batches of the next epoch that were used.
    """

    path: Path
    epoch: int
    batch: int


def find_state(folder: Path, settings: Mapping[str, Any]) -> State | None:
    """The latest usable checkpoint of a run.

    Args:
        folder: The run folder.
        settings: The settings that the checkpoint has to agree with.

    Returns:
        The checkpoint and its place in the run; None where none has been written yet. A last.ckpt that cannot be
        used is kept as damaged.ckpt.

    Raises:
        UserError: There are checkpoints and none can be used.
    """
    problems = []
    for path in (folder / LAST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            section = read_checkpoint(path, settings)[SECTION]
        except ValueError as error:
            problems.append(str(error))
            continue
        if problems:
            # Otherwise the next checkpoint would push the bad file over the good one.
            with suppress(FileNotFoundError):  # another process of this training was faster
                os.replace(folder / LAST, folder / DAMAGED)
            logger.warning("%s; it is kept as %s, and %s is used", problems[0], DAMAGED, PREVIOUS)
        return State(path, section["epoch"], section["batch"])
    if problems:
        raise UserError(f"{'; '.join(problems)}; start anew with another --out")
    return None


def read_checkpoint(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Read a checkpoint and see that it is whole and belongs to the run.

    Args:
        path: The file.
        settings: The settings that it has to agree with.

    Returns:
        Its content, on the CPU. Nothing in it is executed.

    Raises:
        ValueError: It is damaged or of another run.
    """
    try:
        checkpoint = load_checked(path)
    except (WeightsError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    section = checkpoint.get(SECTION) if isinstance(checkpoint, dict) else None
    if section is None:
        raise ValueError(f"{path} is not a checkpoint of unireplknet train")
    # What can be set only since a later version is not in it; config.yaml, read with defaults, answers for that.
    there = upgrade(section["settings"])
    if other := differences(there, {name: settings.get(name) for name in there}):
        raise ValueError(f"{path} is of a run with other settings: {other}")
    return checkpoint


def differences(there: Mapping[str, Any], here: Mapping[str, Any], limit: int = 5) -> str:
    """Name the settings that differ between a run folder and this command, at most ``limit``; empty for none."""
    names = [name for name in {**there, **here} if there.get(name) != here.get(name)]
    said = [f"{name} is {there.get(name)} there and {here.get(name)} here" for name in names[:limit]]
    if len(names) > limit:
        said.append(f"{len(names) - limit} more")
    return ", ".join(said)
