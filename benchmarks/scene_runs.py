"""Masks and boxes of emoji scenes by UniRepLKNets with kernels of 13 and of 3, and a ConvNeXt of as many parameters.

    unireplknet fetch scenes
    python benchmarks/scene_runs.py --data data/scenes                  # what is missing in results/scene_runs.json
    python benchmarks/scene_runs.py --data data/scenes --only masks --networks K=13 --seeds 0
    python benchmarks/scene_runs.py --data data/scenes --epochs 1       # a trial; other lengths are other rows

The recipes are ``scenes`` and ``scene_boxes``, the same for each network but for the backbone: ten to fifteen minutes
of one core for masks and five to ten for boxes, eighteen trainings in all. A detector starts from the backbone that has
learnt masks with the same seed. The epoch is chosen on the val part, the test part scored once, and every training is
noted when it is done; what is noted is not trained again. Runs go to runs/scenes/TASK-NETWORK-SEED-EPOCHS (--runs DIR),
go on where they were interrupted, and are what benchmarks/receptive_fields.py looks into.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _common import RESULTS, write_result
from PIL import Image
from tqdm import tqdm

from unireplknet import UniRepLKNet, reparameterize
from unireplknet.insight.figure import new_figure
from unireplknet.models.complexity import count_params
from unireplknet.recipes import find_recipe
from unireplknet.tasks.detect.score import evaluate as evaluate_boxes
from unireplknet.tasks.segment.score import evaluate as evaluate_masks
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run, fit
from unireplknet_examples.recipes import SCENE_NETWORK

FILE = RESULTS / "scene_runs.json"
SEEDS = (0, 1, 2)
DEPTHS, KERNELS = SCENE_NETWORK["depths"], SCENE_NETWORK["kernel_sizes"]


@dataclass(frozen=True)
class Study:
    """What is learnt.

    Attributes:
        recipe: Name of the recipe.
        score: What is compared.
        read: Scores a finished run.
        starts_from: Task whose backbone it starts from; empty for random numbers.
    """

    recipe: str
    score: str
    read: Callable[[Run], float]
    starts_from: str = ""

    def epochs(self, wanted: int) -> int:
        """Passes over the training scenes: what is wanted, or as many as the recipe has."""
        return wanted or find_recipe(self.recipe).optim.epochs


def miou(run: Run) -> float:
    """Mean intersection over union on the test split, %."""
    return 100 * evaluate_masks(run, "test")[1].summary(run.classes)["miou"]


def box_ap(run: Run) -> float:
    """Average precision of boxes on the test split, %."""
    return 100 * (evaluate_boxes(run, "test")[1].figures["box"]["ap"] or 0.0)


STUDIES = {
    "masks": Study("scenes", "mean IoU, %", miou),
    "boxes": Study("scene_boxes", "box AP, %", box_ap, starts_from="masks"),
}

NETWORKS: dict[str, Callable[[], dict[str, Any]]] = {
    "K=13": dict,
    "K=3": lambda: {"kernel_sizes": tuple((3,) * depth for depth in DEPTHS)},
    "ConvNeXt": lambda: {"name": "convnext_atto", "depths": DEPTHS, "dims": dims(equal_dim()), "kernel_sizes": ()},
}
"""Backbones, as what differs in a recipe's ``model``."""


def dims(first: int) -> tuple[int, ...]:
    """Channels of the stages."""
    return tuple(first * 2**i for i in range(4))


@cache
def equal_dim() -> int:
    """Width of the ConvNeXt whose parameters are nearest to those of the merged UniRepLKNet of K = 13."""
    with torch.device("meta"):
        ours = UniRepLKNet(num_classes=0, depths=DEPTHS, dims=SCENE_NETWORK["dims"], kernel_sizes=KERNELS)
        wanted = count_params(reparameterize(ours))
        found = {dim: abs(count_params(convnext(dim)) - wanted) for dim in range(8, 64, 2)}
    return min(found, key=found.__getitem__)


def convnext(dim: int) -> torch.nn.Module:
    """Without a classifier."""
    return timm.create_model("convnext_atto", num_classes=0, depths=DEPTHS, dims=dims(dim))


@dataclass(frozen=True)
class Cell:
    """A training.

    Attributes:
        task: Name of the study.
        network: Name of the network.
        seed: Seed of the training.
        wanted: Epochs that were asked for; 0 for those of the recipe.
    """

    task: str
    network: str
    seed: int
    wanted: int = 0

    @property
    def key(self) -> dict[str, Any]:
        """What a row of results tells of it."""
        epochs = STUDIES[self.task].epochs(self.wanted)
        return {"task": self.task, "network": self.network, "seed": self.seed, "epochs": epochs}

    def __str__(self) -> str:
        """The name of its run."""
        return "-".join(map(str, self.key.values()))

    def recipe(self, data: Path, runs: Path, workers: int = 0) -> Recipe:
        """The recipe of the task with the network as its backbone."""
        study = STUDIES[self.task]
        recipe = find_recipe(study.recipe)
        for name, value in NETWORKS[self.network]().items():
            setattr(recipe.model, name, value)
        if study.starts_from:
            recipe.model.weights = str(runs.resolve() / str(replace(self, task=study.starts_from)))
        recipe.data.path, recipe.data.workers = str(data.resolve()), workers
        recipe.optim.epochs = study.epochs(self.wanted)
        recipe.trainer.seed, recipe.trainer.progress = self.seed, False
        return recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the scenes")
    parser.add_argument("--runs", metavar="DIR", type=Path, default=Path("runs/scenes"), help="where runs go")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=0, help="default: the recipes'")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare samples")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    cells = [
        Cell(task, network, seed, options.epochs)
        for seed in options.seeds
        for network in options.networks
        for task in STUDIES  # masks first: boxes start from them
        if task in options.only
    ]
    rows = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else []
    missing = [cell for cell in cells if not any(cell.key.items() <= row.items() for row in rows)]
    floor = round(background_everywhere(options.data), 3)
    about = {"command": "python benchmarks/scene_runs.py --data data/scenes", "background_everywhere": floor}
    for cell in (bar := tqdm(missing)):
        bar.set_description(str(cell))
        rows.append(train(cell.recipe(options.data, options.runs, options.workers), options.runs / str(cell), cell))
        write_result(FILE.stem, {**about, "rows": rows})
    print(table(rows))
    draw(rows, FILE.with_suffix(".png"))


def train(recipe: Recipe, folder: Path, cell: Cell) -> dict[str, Any]:
    """Train, unless the folder holds the finished run, and score once."""
    kept = Run(folder)
    done = kept.finished and kept.recipe.settings() == recipe.settings()
    run = kept if done else fit(recipe, folder)
    model, results = run.load_model(), run.results
    return {
        **cell.key,
        "score": round(STUDIES[cell.task].read(run), 3),
        "backbone_parameters": count_params(reparameterize(model.backbone)),
        "parameters": results["parameters"],
        "best_epoch": results["best_epoch"],
        "seconds": round(results["seconds"]),
    }


def background_everywhere(data: Path) -> float:
    """Mean intersection over union on the test split of taking every pixel for background, %."""
    masks = [np.asarray(Image.open(file)) for file in sorted((data / "test" / "masks").glob("*.png"))]
    classes = len((data / "classes.txt").read_text(encoding="utf-8").splitlines())
    return 100 * float(np.mean(np.stack(masks) == 0)) / classes


def scores(rows: list[dict[str, Any]], task: str, network: str, epochs: int) -> list[float]:
    """What the seeds came to."""
    mine = (task, network, epochs)
    return [row["score"] for row in rows if (row["task"], row["network"], row["epochs"]) == mine]


def table(rows: list[dict[str, Any]]) -> str:
    """Means, and lowest to highest of the seeds, as Markdown, for each length of training."""
    lines = ["| task | score | epochs | " + " | ".join(NETWORKS) + " |", "|---|---|---|" + "---|" * len(NETWORKS)]
    for task, epochs in sorted({(row["task"], row["epochs"]) for row in rows}):
        texts = []
        for network in NETWORKS:
            found = scores(rows, task, network, epochs)
            spread = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
            texts.append(f"{statistics.mean(found):.2f}{spread}" if found else "not run")
        lines.append(f"| {task} | {STUDIES[task].score} | {epochs} | {' | '.join(texts)} |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """Every seed, and the means, of the recipes' own lengths: one panel a task."""
    figure = new_figure(8, 3)
    for axes, (task, study) in zip(figure.subplots(1, len(STUDIES)), STUDIES.items(), strict=True):
        for place, network in enumerate(NETWORKS):
            if found := scores(rows, task, network, study.epochs(0)):
                axes.plot([place] * len(found), found, "o", color="tab:blue", alpha=0.4)
                axes.plot(place, statistics.mean(found), "_", color="tab:blue", markersize=30)
        axes.set(title=task, ylabel=study.score, xticks=range(len(NETWORKS)), xlim=(-0.5, len(NETWORKS) - 0.5))
        axes.set_xticklabels(list(NETWORKS))
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=100)


if __name__ == "__main__":
    main()
