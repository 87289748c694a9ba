"""``train``."""

from __future__ import annotations

import argparse
from inspect import getdoc
from pathlib import Path
from typing import Any

from unireplknet.cli.console import Parser, first_line, say
from unireplknet.cli.scoring import show
from unireplknet.errors import UserError


def train(words: list[str]) -> None:
    """Train a network by a recipe, in a new run folder."""
    from unireplknet.recipes import find_recipe
    from unireplknet.registry import RECIPES

    recipes = "\n".join(f"  {name:10} {first_line(recipe)}" for name, recipe in RECIPES.usable())
    parser = Parser("train RECIPE", f"{first_line(train)}\n\nrecipes:\n{recipes}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "RECIPE can also be the config.yaml of a run; RECIPE --help lists what can be set in it"
    parser.add_argument("--data", metavar="PATH", help="where the samples lie; short for --data.path PATH")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the run folder; an unfinished run in it goes on")
    parser.add_argument("--resume", action="store_true", help="go on with the last run of this recipe under runs/")
    parser.add_argument("--dry-run", action="store_true", help="tell what the training will take, and do nothing")
    parser.add_argument(
        "--tflops", metavar="X", type=float, help="with --dry-run: what each device sustains, for hours"
    )
    if not words or words[0].startswith("-"):
        parser.parse_args(words)  # --help leaves here
        parser.error(f"which recipe? One of {', '.join(RECIPES)}, or the config.yaml of a run")
    original = recipe = find_recipe(words[0])
    if "-h" in words or "--help" in words:
        say(parser.format_help())
        if words[0] in RECIPES:
            say(f"{words[0]}: {getdoc(RECIPES[words[0]])}\n")
        say(recipe.parser().format_help().partition("\n\n")[2])
        return
    options, flags = parser.parse_known_args(words[1:])
    if options.data:
        flags += ["--data.path", options.data]
    recipe = recipe.override(flags)
    if options.dry_run:
        _tell_plan(recipe, original, options.tflops)
        return
    if options.tflops is not None:
        parser.error("--tflops belongs to --dry-run")

    from unireplknet.training.processes import is_first
    from unireplknet.training.run import fit, last_folder

    if options.resume and options.out:
        raise UserError(f"--resume takes the last run under runs/; --out {options.out} alone goes on with that one")
    run = fit(recipe, last_folder(recipe.name) if options.resume else options.out)
    if not is_first():
        return
    say(f"{run.path}: epoch {run.results['best_epoch']} did best on the val split")
    show(run.recipe.task.evaluate(run))


def _tell_plan(recipe: Any, original: Any, tflops: float | None) -> None:
    from unireplknet.recipes import SAMPLES
    from unireplknet.training.plan import describe, make_plan

    if tflops is not None and tflops <= 0:
        raise UserError(f"--tflops is {tflops:g}; expected more than 0")
    say(f"plan of {recipe.name}; nothing is trained or written")
    for line in describe(make_plan(recipe, SAMPLES.get(recipe.name)), original, tflops):
        say(line)
