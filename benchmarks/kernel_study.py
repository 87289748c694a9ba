"""Kernels of 3, 7 and 13 in the same small network, in all five modalities: means and spreads over three seeds.

    for name in emoji language furniture weather motion; do unireplknet fetch $name; done
    python benchmarks/kernel_study.py --data data                       # what is missing in results/kernel_study.json
    python benchmarks/kernel_study.py --data data --only sound points   # of these modalities

Width, depth and everything else are those of the modality's small recipe; the kernels of stages 1 to 3 change, those of
stage 4 (maps of a few pixels) stay at 3. The epoch is chosen on a part of the training data, the test part scored once.
Every training is noted when it is done. Counterpart of the table of kernel sizes across modalities in the papers
(CVPR table 13, journal table 11).
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import RESULTS, write_result
from tqdm import tqdm

from unireplknet.insight.figure import new_figure
from unireplknet.recipes import find_recipe
from unireplknet.tasks.classify.score import evaluate
from unireplknet.tasks.forecast.score import evaluate as evaluate_forecasts
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run, fit

FILE = RESULTS / "kernel_study.json"
KERNELS, SEEDS = (3, 7, 13), (0, 1, 2)


@dataclass(frozen=True)
class Study:
    """What is trained in a modality.

    Attributes:
        recipe: Name of the recipe.
        data: Folder below --data.
        score: What is compared.
        read: Scores a finished run.
        changes: Flags that shorten the recipe.
    """

    recipe: str
    data: str
    score: str
    read: Callable[[Run], float]
    changes: tuple[str, ...] = ()


def top1(run: Run) -> float:
    """Accuracy on the test split, %."""
    return 100 * evaluate(run, "test")[1].summary(run.classes)["top1"]


def class_mean(run: Run) -> float:
    """Accuracy on the test split, mean over the classes, %."""
    return 100 * evaluate(run, "test")[1].summary(run.classes)["mean_class_accuracy"]


def temperature(run: Run) -> float:
    """Mean squared error of the forecast temperature on the test split."""
    _, scores = evaluate_forecasts(run, "test", learned=False)
    return scores.summary()["scores"]["UniRepLKNet"]["temp"]["mse"]


STUDIES = {
    "pictures": Study("emoji", "emoji/google", "accuracy, %", top1, ("--optim.epochs", "10", "--input.size", "32")),
    "sound": Study("language", "language", "class mean, %", class_mean, ("--optim.epochs", "15")),
    "points": Study("furniture", "furniture", "accuracy, %", top1),
    "series": Study("weather", "weather", "MSE of temperature, lower is better", temperature),
    "video": Study("motion", "motion", "accuracy, %", top1, ("--optim.epochs", "6")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of what was fetched")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    cells = [(name, kernel, seed) for seed in SEEDS for name in options.only for kernel in KERNELS]
    rows = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else []
    known = {(row["modality"], row["kernel"], row["seed"]) for row in rows}
    for name, kernel, seed in (bar := tqdm([cell for cell in cells if cell not in known])):
        bar.set_description(f"{name} K={kernel} seed {seed}")
        rows.append(train(name, kernel, seed, options.data))
        write_result(FILE.stem, {"command": "python benchmarks/kernel_study.py --data data", "rows": rows})
    print(table(rows))
    draw(rows, FILE.with_suffix(".png"))


def recipe_of(name: str, kernel: int, seed: int, data: Path) -> Recipe:
    """The small recipe of a modality with kernels of one size."""
    study = STUDIES[name]
    recipe = find_recipe(study.recipe).override(list(study.changes))
    sizes = recipe.model.kernel_sizes
    recipe.model.kernel_sizes = (*(tuple(kernel for _ in stage) for stage in sizes[:-1]), sizes[-1])
    recipe.data.path = str((data / study.data).resolve())
    recipe.trainer.seed, recipe.trainer.progress = seed, False
    return recipe


def train(name: str, kernel: int, seed: int, data: Path) -> dict[str, Any]:
    """Train and score once."""
    with tempfile.TemporaryDirectory() as folder:
        run = fit(recipe_of(name, kernel, seed, data), Path(folder) / "run")
        results = run.results
        return {
            "modality": name,
            "kernel": kernel,
            "seed": seed,
            "score": round(STUDIES[name].read(run), 3),
            "parameters": results["parameters"],
            "seconds": round(results["seconds"]),
        }


def scores(rows: list[dict[str, Any]], name: str, kernel: int) -> list[float]:
    """What the seeds came to."""
    return [row["score"] for row in rows if (row["modality"], row["kernel"]) == (name, kernel)]


def table(rows: list[dict[str, Any]]) -> str:
    """Means, and lowest to highest of the seeds, as Markdown."""
    lines = [
        "| modality | score | " + " | ".join(f"K={k}" for k in KERNELS) + " |",
        "|---|---|" + "---|" * len(KERNELS),
    ]
    for name, study in STUDIES.items():
        found = [scores(rows, name, kernel) for kernel in KERNELS]
        texts = [f"{statistics.mean(s):.2f} ({min(s):.2f} to {max(s):.2f})" if s else "not run" for s in found]
        lines.append(f"| {name} | {study.score} | {' | '.join(texts)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """Means with the spread of the seeds, one panel a modality."""
    figure = new_figure(13, 3)
    for axes, (name, study) in zip(figure.subplots(1, len(STUDIES)), STUDIES.items(), strict=True):
        found = {kernel: scores(rows, name, kernel) for kernel in KERNELS}
        found = {kernel: values for kernel, values in found.items() if values}
        for kernel, values in found.items():
            axes.plot([kernel] * len(values), values, "o", color="tab:blue", alpha=0.4)
        axes.plot(list(found), [statistics.mean(values) for values in found.values()], color="tab:blue")
        axes.set(title=name, xlabel="K", xticks=KERNELS, ylabel=study.score)
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main()
