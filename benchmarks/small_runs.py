"""Measure the recipes that run on a laptop, and write what came out to results/small_runs.json.

    python benchmarks/small_runs.py digits
    python benchmarks/small_runs.py mnist --data package/data --seeds 0 --devices 2
    python benchmarks/small_runs.py emoji --data google/package --other twitter/package

Each seed is one run of the recipe as it stands: the epoch is chosen on the val split, the test split is scored once.
--other names data that are divided alike, as another vendor's drawings of the same emoji are; its test split gives a
second figure. The floors know the same samples, as maps: 1-nearest-neighbour, and extremely randomised trees.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
from pathlib import Path

from _common import machine, versions
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.neighbors import KNeighborsClassifier

from unireplknet.data.split import Split
from unireplknet.recipes import RECIPES
from unireplknet.tasks.classify.score import fit_on_maps, maps_of, score
from unireplknet.training.loader import build_loader
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run, fit, new_folder

RESULTS = Path(__file__).parent / "results" / "small_runs.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", default="", help="where the samples lie, if the recipe needs it")
    parser.add_argument("--other", default="", help="where other samples lie whose test split is a second figure")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--devices", type=int, default=1, help="how many processes train together")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    key = options.recipe + (f"_{options.devices}_processes" if options.devices > 1 else "")
    results[key] = measure(options.recipe, options.data, options.other, options.seeds, options.devices)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    print(json.dumps(results[key], indent=2))


def measure(name: str, data: str, other: str, seeds: list[int], devices: int) -> dict[str, object]:
    runs = []
    for seed in seeds:
        recipe = RECIPES[name]()
        recipe.data.path = data or recipe.data.path
        recipe.trainer.seed = seed
        recipe.trainer.progress = False
        recipe.trainer.devices = devices
        run = fit(recipe) if devices == 1 else fit_by_command(recipe)
        tests = {"test": run.load_data().splits["test"]}
        if other:
            tests["other_test"] = run.load_data(other).splits["test"]
        scores = {split: score_of(run, samples) for split, samples in tests.items()}
        runs.append(
            {"seed": seed, "best_epoch": run.results["best_epoch"], "training_seconds": run.results["seconds"]}
            | {f"{split}_{figure}": value for split, part in scores.items() for figure, value in part.items()}
        )
    return {
        "runs": runs,
        **{f"mean_{split}_top1": statistics.mean(r[f"{split}_top1"] for r in runs) for split in tests},
        **floors(run, tests),
        "samples": {split: entry["samples"] for split, entry in run.results["data"].items()},
        "parameters": run.results["parameters"],
        "epochs": recipe.optim.epochs,
        "devices": devices,
        "ema": recipe.optim.ema,
        "command": f"python benchmarks/small_runs.py {name}"
        + (" --data PATH" if data else "")
        + (" --other PATH" if other else "")
        + (f" --devices {devices}" if devices > 1 else ""),
        "machine": machine(),
        "versions": versions(),
    }


def fit_by_command(recipe: Recipe) -> Run:
    """Train by the command, which starts the other processes as copies of itself."""
    out = new_folder(recipe.name)
    recipe.save(out.with_suffix(".yaml"))
    words = [sys.executable, "-m", "unireplknet", "train", str(out.with_suffix(".yaml")), "--out", str(out)]
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // recipe.trainer.devices))}
    subprocess.run(words, check=True, env=os.environ | environment)
    return Run.open(out)


def score_of(run: Run, samples: Split) -> dict[str, float]:
    """Accuracy of a run's best epoch, the mean of the classes' accuracies, and the number of wrong answers."""
    summary = score(run.load_model(), build_loader(run.recipe, samples)).summary(run.classes)
    wrong = round((1 - summary["top1"]) * summary["samples"])
    return {"top1": summary["top1"], "class_mean": summary["mean_class_accuracy"], "wrong": wrong}


def floors(run: Run, tests: dict[str, Split]) -> dict[str, float]:
    """Accuracy of classifiers that know the same samples but are no networks."""
    classifiers = {
        "nearest_neighbour": KNeighborsClassifier(1),
        "extra_trees": ExtraTreesClassifier(300, random_state=0),
    }
    return {
        f"{name}_{split}_top1": fitted.score(*maps_of(run, samples))
        for name, classifier in classifiers.items()
        for fitted in [fit_on_maps(classifier, run, run.load_data())]
        for split, samples in tests.items()
    }


if __name__ == "__main__":
    main()
