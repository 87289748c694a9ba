"""Recipes: Python functions that return a :class:`~unireplknet.training.recipe.Recipe`.

The docstring of each says the command, the hardware and time it wants, the score to expect, and whether it was run.
"""

from __future__ import annotations

from pathlib import Path

from unireplknet.errors import UserError, nearest
from unireplknet.registry import RECIPES, SAMPLES
from unireplknet.training.recipe import Recipe

__all__ = ["RECIPES", "SAMPLES", "find_recipe"]


def find_recipe(name: str) -> Recipe:
    """A recipe by its name, or from the config.yaml of a run (the file, or the folder that holds it).

    Raises:
        UserError: There is no such recipe.
    """
    if name in RECIPES:
        return RECIPES[name]()
    path = Path(name)
    if path.is_dir():
        path = path / "config.yaml"
    if path.suffix in (".yaml", ".yml"):
        return Recipe.load(path)
    hint = nearest(name, RECIPES) or f"; there are {', '.join(RECIPES)}, or the config.yaml of a run"
    raise UserError(f"no recipe {name!r}{hint}")
