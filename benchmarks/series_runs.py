"""Measure the weather recipe beside forecasts that need no network, and write results/series_runs.json.

    unireplknet fetch weather --out weather
    python benchmarks/series_runs.py --data weather

Each seed is one run of the recipe as it stands. The epoch, and whatever the baselines have to choose, is chosen on the
val part; the last quarter of the year is scored once. No window of training sees anything of what comes later.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import statistics
from typing import Any

from _common import write_result

from unireplknet.recipes import RECIPES
from unireplknet.tasks.forecast.score import MODEL, evaluate
from unireplknet.training.run import fit

PACKAGES = ("torch", "timm", "lightning", "numpy", "pandas", "scikit-learn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=("weather",), default="weather")
    parser.add_argument("--data", required=True, help="where the table lies")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    result = measure(options.recipe, options.data, options.seeds)
    print(write_result("series_runs", {"command": "python benchmarks/series_runs.py --data PATH", **result}))
    for name, targets in result["mean"].items():
        print(f"{name:36}", "  ".join(f"{t}: MSE {v['mse']:.3f} MAE {v['mae']:.3f}" for t, v in targets.items()))


def measure(name: str, data: str, seeds: list[int]) -> dict[str, Any]:
    runs, summaries = [], []
    for seed in seeds:
        recipe = RECIPES[name]()
        recipe.data.path = data
        recipe.trainer.seed = seed
        recipe.trainer.progress = False
        run = fit(recipe)
        _, scores = evaluate(run, "test", learned=not runs)  # the baselines are the same for every seed
        summaries.append(scores.summary())
        runs.append(
            {
                "seed": seed,
                "scores": summaries[-1]["scores"][MODEL],
                "best_epoch": run.results["best_epoch"],
                "training_seconds": run.results["seconds"],
            }
        )
        print(runs[-1], flush=True)
    first = summaries[0]
    mean = first["scores"] | {MODEL: _over_seeds(runs, statistics.mean)}
    return {
        "mean": mean,
        "standard_deviation_over_seeds": _over_seeds(runs, statistics.stdev) if len(runs) > 1 else None,
        "runs": runs,
        "units": first["units"],
        "windows": {split: entry["samples"] for split, entry in run.results["data"].items()},
        "windows_left_out": first["windows_left_out"],
        "numbers_scored": first["numbers_scored"],
        "parameters": run.results["parameters"],
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
    }


def _over_seeds(runs: list[dict[str, Any]], summarise: Any) -> dict[str, dict[str, float]]:
    return {
        target: {kind: summarise(r["scores"][target][kind] for r in runs) for kind in ("mse", "mae")}
        for target in runs[0]["scores"]
    }


if __name__ == "__main__":
    main()
