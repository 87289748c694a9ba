"""Measure the recipes that run on a laptop, and write what came out to results/small_runs.json.

    python benchmarks/small_runs.py digits
    python benchmarks/small_runs.py mnist --data package/data --seeds 0

Each seed is one run of the recipe as it stands: the epoch is chosen on the val split, the test split is scored once.
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import os
import platform
import statistics
from pathlib import Path

import torch
from _common import versions

from unireplknet.recipes import RECIPES
from unireplknet.training.evaluate import evaluate, nearest_neighbour
from unireplknet.training.run import fit

RESULTS = Path(__file__).parent / "results" / "small_runs.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", default="", help="where the samples lie, if the recipe needs it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    results[options.recipe] = measure(options.recipe, options.data, options.seeds)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
    print(json.dumps(results[options.recipe], indent=2))


def measure(name: str, data: str, seeds: list[int]) -> dict[str, object]:
    runs = []
    for seed in seeds:
        recipe = RECIPES[name]()
        recipe.data.path = data or recipe.data.path
        recipe.trainer.seed = seed
        recipe.trainer.progress = False
        run = fit(recipe)
        _, scores = evaluate(run, "test")
        wrong = int((scores.logits.argmax(1) != scores.labels).sum())
        runs.append(
            {
                "seed": seed,
                "test_top1": 1 - wrong / len(scores.labels),
                "wrong": wrong,
                "best_epoch": run.results["best_epoch"],
                "training_seconds": run.results["seconds"],
            }
        )
    return {
        "runs": runs,
        "mean_test_top1": statistics.mean(r["test_top1"] for r in runs),
        "nearest_neighbour_test_top1": nearest_neighbour(run, run.load_data()),
        "samples": {split: entry["samples"] for split, entry in run.results["data"].items()},
        "parameters": run.results["parameters"],
        "epochs": recipe.optim.epochs,
        "command": f"python benchmarks/small_runs.py {name}" + (" --data PATH" if data else ""),
        "date": datetime.date.today().isoformat(),
        "machine": {
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": str(torch.accelerator.current_accelerator(check_available=True)),
        },
        "versions": versions(),
    }


def processor() -> str:
    """The processor's name; only Linux tells the exact one, in a file."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
