"""What an exported file says about itself, the same in every format, and what we read from it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from unireplknet._version import __version__
from unireplknet.errors import UserError
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run

LICENCE = "Apache-2.0"
"""That of the network's code; whoever trained weights decides about them."""

FORMAT = "unireplknet 2"
"""The form of the metadata; in the first one the modality implied the task."""

DIVISION = ("source", "test_fraction", "val_fraction", "split_seed")
"""How the data were divided, which decides what the val split is; where they lay is nobody's business."""


def describe(run: Run, shape: tuple[int, int, int], precision: str, licence: str = LICENCE) -> dict[str, str]:
    """The metadata of a run's files.

    Args:
        run: The run.
        shape: Shape (C, H, W) of its maps.
        precision: In what the file computes.
        licence: What the file says about its licence.
    """
    recipe = run.recipe
    values = recipe.values()
    return {
        "format": FORMAT,
        "version": __version__,
        "recipe": recipe.name,
        "task": recipe.task.name,
        "modality": recipe.modality,
        "names": _json(run.names),
        "input_shape": _json(shape),
        "precision": precision,
        "preprocessing": _json(values["input"]),
        "activation": recipe.task.activation(recipe),
        "network": _json(values["model"] | {"weights": ""}),
        "head": _json(values["head"]),
        "data": _json({name: getattr(recipe.data, name) for name in DIVISION}),
        "license": licence,
    }


def recipe_of(metadata: Mapping[str, str], path: Path) -> Recipe:
    """How samples become maps and which network sees them; what concerns training is not in a file.

    Raises:
        UserError: The file is not one of ours.
    """
    try:
        values = {
            "name": metadata["recipe"],
            "modality": metadata["modality"],
            "input": json.loads(metadata["preprocessing"]),
            "model": json.loads(metadata["network"]),
            "head": json.loads(metadata.get("head", "{}")),
            "data": json.loads(metadata["data"]),
            "trainer": {"select": "last"},
        }
        if metadata["activation"] == "sigmoid":
            values["optim"] = {"loss": "bce"}
        if metadata["format"] == FORMAT:
            values["task"] = metadata["task"]
    except (KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{path} was not made by unireplknet export: no {error} in its metadata") from error
    return Recipe.of(values)


def names_of(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Names in the order of the outputs: classes, or stations."""
    return tuple(json.loads(metadata["names"]))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
