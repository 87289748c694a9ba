"""Masks and boxes of emoji scenes by UniRepLKNets with kernels of 13 and of 3, and a ConvNeXt of as many parameters.

    unireplknet fetch scenes
    python benchmarks/scene_runs.py --data data/scenes                  # what is missing in results/scene_runs.json
    python benchmarks/scene_runs.py --data data/scenes --only boxes --networks K=13 --seeds 0
    python benchmarks/scene_runs.py --data data/scenes --keep runs/scenes      # runs/scenes/masks-K=13-0-8 and so on

Decoder or detector, augmentation, schedule and steps are those of the recipes ``scenes`` and ``scene_boxes`` with stems
of stride 4 and fewer epochs, the same for each network: about five minutes of one core a training (an estimate), which
--epochs changes. For masks these were too few in a first try: all of them were taken for background. The epoch is
chosen on the val part, the test part scored once, and every training is noted when it is done; what is noted is not
trained again, whether its run was kept or not. Trainings of other lengths are other rows.
Runs that are kept go on where they were interrupted, and benchmarks/receptive_fields.py looks into them.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from _common import RESULTS, write_result
from tqdm import tqdm

from unireplknet import UniRepLKNet, reparameterize
from unireplknet.models.complexity import count_params
from unireplknet.recipes import find_recipe
from unireplknet.training.detect import evaluate as evaluate_boxes
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run, fit
from unireplknet.training.segment import evaluate as evaluate_masks

FILE = RESULTS / "scene_runs.json"
SEEDS = (0, 1, 2)
DEPTHS, DIM = (1, 1, 3, 1), 32


@dataclass(frozen=True)
class Study:
    """What is learnt.

    Attributes:
        recipe: Name of the recipe.
        score: What is compared.
        read: Scores a finished run.
        epochs: Passes over the 2,000 training scenes that take about five minutes of one core.
    """

    recipe: str
    score: str
    read: Callable[[Run], float]
    epochs: int


def miou(run: Run) -> float:
    """Mean intersection over union on the test split, %."""
    return 100 * evaluate_masks(run, "test")[1].summary(run.classes)["miou"]


def box_ap(run: Run) -> float:
    """Average precision of boxes on the test split, %."""
    return 100 * (evaluate_boxes(run, "test")[1].figures["box"]["ap"] or 0.0)


STUDIES = {
    "masks": Study("scenes", "mean IoU, %", miou, 8),
    "boxes": Study("scene_boxes", "box AP, %", box_ap, 6),
}

NETWORKS: dict[str, Callable[[], dict[str, Any]]] = {
    "K=13": lambda: ours(13),
    "K=3": lambda: ours(3),
    "ConvNeXt": lambda: {"name": "convnext_atto", "depths": DEPTHS, "dims": dims(equal_dim()), "kernel_sizes": ()},
}
"""Backbones, as settings of a recipe's ``model``."""


def dims(first: int) -> tuple[int, ...]:
    """Channels of the stages."""
    return tuple(first * 2**i for i in range(4))


def ours(kernel: int) -> dict[str, Any]:
    """A UniRepLKNet with kernels of one size, but for the first and the last stage, as in the kernel study."""
    sizes = ((3,), (kernel,), (kernel,) * 3, (3,))
    return {"name": "unireplknet_a", "depths": DEPTHS, "dims": dims(DIM), "kernel_sizes": sizes}


@cache
def equal_dim() -> int:
    """Width of the ConvNeXt whose parameters are nearest to those of the merged UniRepLKNet of K = 13."""
    with torch.device("meta"):
        network = ours(13)
        del network["name"]
        wanted = count_params(reparameterize(UniRepLKNet(num_classes=0, **network)))
        found = {dim: abs(count_params(convnext(dim)) - wanted) for dim in range(8, 2 * DIM, 2)}
    return min(found, key=found.__getitem__)


def convnext(dim: int) -> torch.nn.Module:
    """Without a classifier."""
    return timm.create_model("convnext_atto", num_classes=0, depths=DEPTHS, dims=dims(dim))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the scenes")
    parser.add_argument("--only", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--epochs", type=int, default=0, help="default: about five minutes a training")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare samples")
    parser.add_argument("--keep", metavar="DIR", type=Path, help="keep the runs, as DIR/TASK-NETWORK-SEED-EPOCHS")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    cells = [
        (task, network, seed, options.epochs or STUDIES[task].epochs)
        for seed in options.seeds
        for task in options.only
        for network in options.networks
    ]
    rows = json.loads(FILE.read_text(encoding="utf-8"))["rows"] if FILE.exists() else []
    known = {(row["task"], row["network"], row["seed"], row["epochs"]) for row in rows}
    for cell in (bar := tqdm([cell for cell in cells if cell not in known])):
        bar.set_description("{} {} seed {} {} epochs".format(*cell))
        with run_folder(cell, options.keep) as folder:
            rows.append(train(recipe_of(*cell, options.data, options.workers), folder, *cell))
        write_result(FILE.stem, {"command": "python benchmarks/scene_runs.py --data data/scenes", "rows": rows})
    print(table(rows))


def recipe_of(task: str, network: str, seed: int, epochs: int, data: Path, workers: int = 0) -> Recipe:
    """The recipe of a task with another backbone."""
    recipe = find_recipe(STUDIES[task].recipe)
    recipe.model.stem_stride = 4
    for name, value in NETWORKS[network]().items():
        setattr(recipe.model, name, value)
    recipe.data.path, recipe.data.workers = str(data.resolve()), workers
    recipe.optim.epochs = epochs
    recipe.trainer.seed, recipe.trainer.progress = seed, False
    return recipe


@contextmanager
def run_folder(cell: tuple[str, str, int, int], keep: Path | None) -> Iterator[Path]:
    """Where the run of a cell goes: to stay, or to be gone afterwards."""
    if keep is not None:
        yield keep / "-".join(map(str, cell))
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "run"


def train(recipe: Recipe, folder: Path, task: str, network: str, seed: int, epochs: int) -> dict[str, Any]:
    """Train, unless the folder holds the finished run, and score once."""
    kept = Run(folder)
    done = kept.finished and kept.recipe.settings() == recipe.settings()
    run = kept if done else fit(recipe, folder)
    model, results = run.load_model(), run.results
    return {
        "task": task,
        "network": network,
        "seed": seed,
        "epochs": epochs,
        "score": round(STUDIES[task].read(run), 3),
        "backbone_parameters": count_params(reparameterize(model.backbone)),
        "parameters": results["parameters"],
        "best_epoch": results["best_epoch"],
        "seconds": round(results["seconds"]),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Means, and lowest to highest of the seeds, as Markdown, for each length of training."""
    lines = ["| task | score | epochs | " + " | ".join(NETWORKS) + " |", "|---|---|---|" + "---|" * len(NETWORKS)]
    for task, epochs in sorted({(row["task"], row["epochs"]) for row in rows}):
        texts = []
        for network in NETWORKS:
            mine = (task, epochs, network)
            found = [row["score"] for row in rows if (row["task"], row["epochs"], row["network"]) == mine]
            spread = f" ({min(found):.2f} to {max(found):.2f})" if len(found) > 1 else ""
            texts.append(f"{statistics.mean(found):.2f}{spread}" if found else "not run")
        lines.append(f"| {task} | {STUDIES[task].score} | {epochs} | {' | '.join(texts)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
