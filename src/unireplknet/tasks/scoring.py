"""What scoring and predicting have in common, whatever the task."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unireplknet.data.files import distinct_stems, find_inputs
from unireplknet.errors import UserError
from unireplknet.training.run import Run


def best_device() -> torch.device:
    """The accelerator that PyTorch finds, otherwise the CPU."""
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def evaluation_file(run: Run, name: str, kind: str = "") -> Path:
    """Where the scores of a split lie.

    Args:
        run: The run.
        name: The split.
        kind: How it was looked at, where that is not as the recipe says.
    """
    return run.path / f"evaluation-{name}{kind}.json"


def write_evaluation(run: Run, name: str, summary: dict[str, Any], kind: str = "") -> Path:
    """Write the scores of a split, as plain numbers, into the run folder.

    Args:
        run: The run.
        name: The split.
        summary: The scores.
        kind: As of :func:`evaluation_file`.
    """
    file = evaluation_file(run, name, kind)
    text = json.dumps({"split": name} | summary, indent=2, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
    return file


def find_places(run: Run, paths: Sequence[str | Path], folder: Path | None = None) -> tuple[list[Path], list[Path]]:
    """Files of a run's modality, and for each the beginning ``FOLDER/NAME`` of what is to be drawn of it.

    Args:
        run: The run.
        paths: Files, or folders to search for them.
        folder: Where to draw, made where it is missing; by default ``predictions`` in the run folder.

    Raises:
        UserError: A path does not exist, or no file was found.
    """
    files = find_inputs(paths, run.recipe.input.extensions)
    folder = folder or run.path / "predictions"
    folder.mkdir(parents=True, exist_ok=True)
    return files, [folder / stem for stem in distinct_stems(files)]


def choose_split(run: Run, data: Any, name: str = "") -> str:
    """The name of the split of a run's data to score: the one asked for, by default test, or val where there is none.

    Raises:
        UserError: There is no such split.
    """
    name = name or ("test" if "test" in data.splits else "val")
    if name not in data.splits:
        raise UserError(f"the data of {run.path} have no {name} split, only {', '.join(data.splits)}")
    return name
