"""Measure the recipe "motion", and write what came out to results/video_runs.json.

    unireplknet fetch motion
    python benchmarks/video_runs.py data/motion

Each seed is one run of the recipe as it stands: the epoch is chosen on the val split, the test split is scored once,
and then once more with its frames in another order. The picture in docs/video.md is drawn too.
"""

from __future__ import annotations

import argparse
import logging
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from _common import write_result

from unireplknet.modalities.video import VideoInput
from unireplknet.tasks.classify.score import evaluate, score
from unireplknet.training.loader import build_loader
from unireplknet.training.run import Run, fit
from unireplknet_examples.recipes import motion

ORDERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "shuffled": lambda numbers: numbers[torch.randperm(len(numbers)).numpy()],
    "one_frame": lambda numbers: numbers[[len(numbers) // 2] * len(numbers)],
    "backwards": lambda numbers: numbers[::-1],
}
"""Other orders of a clip's frames. MapDataset seeds the random ones for each video."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    draw_maps(options.data)
    runs = [measure(options.data, seed) for seed in options.seeds]
    accuracies = [run["test_top1"] for run in runs]
    result = {
        "command": "python benchmarks/video_runs.py data/motion",
        "recipe": "motion",
        "mean_test_top1": statistics.mean(accuracies),
        "spread_test_top1": [min(accuracies), max(accuracies)],
        "chance": 1 / 8,
        "runs": runs,
    }
    print(write_result("video_runs", result))


def measure(data: str, seed: int) -> dict[str, object]:
    recipe = motion()
    recipe.data.path = data
    recipe.trainer.seed = seed
    recipe.trainer.progress = False
    run = fit(recipe)
    _, scores = evaluate(run, "test")
    return {
        "seed": seed,
        "test_top1": scores.summary(run.classes)["top1"],
        "best_epoch": run.results["best_epoch"],
        "training_seconds": run.results["seconds"],
        "samples": {name: split["samples"] for name, split in run.results["data"].items()},
        "parameters": run.results["parameters"],
        "test_top1_in_another_order": {name: reordered(run, order) for name, order in ORDERS.items()},
    }


def reordered(run: Run, order: Callable[[np.ndarray], np.ndarray]) -> float:
    class Reordered(VideoInput):
        def numbers(self, count: int, offset: float) -> np.ndarray:
            return order(super().numbers(count, offset))

    recipe = replace(run.recipe, input=Reordered(**asdict(run.recipe.input)))
    scores = score(run.load_model(), build_loader(recipe, run.load_data().splits["test"]))
    return scores.summary(run.classes)["top1"]


def draw_maps(data: str) -> None:
    """Draw the map of one test video of each direction."""
    from unireplknet.insight.figure import new_figure

    inputs = motion().input
    files = [sorted(folder.iterdir())[0] for folder in sorted((Path(data) / "test").iterdir())]
    figure = new_figure(9, 4.8)
    for axes, file in zip(figure.subplots(2, 4).flat, files, strict=True):
        axes.imshow(inputs.to_map(inputs.read(file))[0], cmap="gray")
        axes.set_axis_off()
        axes.set_title(file.parent.name, fontsize="medium")
    figure.savefig(Path(__file__).parents[1] / "docs" / "motion.png", dpi=80)


if __name__ == "__main__":
    main()
