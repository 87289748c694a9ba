"""Furniture in ten classes by five repeats of five folds, relatives on one side, with a forest beside the network.

    python benchmarks/points_runs.py choose --data PATH    # settings, compared inside the training part of one fold
    python benchmarks/points_runs.py report --data PATH    # the recipe as it stands; no fold of it was used to choose

PATH is what ``unireplknet fetch furniture`` makes. Every training is noted in results/points_runs.json when it
is done, and the same command goes on after the last one.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _common import RESULTS, machine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from unireplknet.data.sources.folder import load_grouped
from unireplknet.data.split import LabeledData, Split
from unireplknet.files import write_text
from unireplknet.modalities.points import PointsInput
from unireplknet.recipes import RECIPES
from unireplknet.tasks.classify.score import evaluate
from unireplknet.training.recipe import Data, Recipe
from unireplknet.training.run import fit

FILE = RESULTS / "points_runs.json"
REPEATS, FOLDS = range(5), 5
CHOOSING, INNER_FOLDS = 100, 4
"""Seed of the division in whose first training part settings are compared, and the parts that is divided into."""

CANDIDATES: dict[str, list[str]] = {
    "recipe": [],
    "any turn": ["--augment.turn", "180", "--input.rotations", "12", "--input.arc", "360"],
    "three views": ["--input.directions", "[[0,0],[90,0],[0,90]]"],
    "48 pixels": ["--input.size", "48"],
    "kernels of 13": ["--model.kernel_sizes", "[[13],[13],[7,7],[3]]"],
    "wider": ["--model.dims", "[32,64,128,256]"],
    "100 epochs": ["--optim.epochs", "100"],
    "stronger changes": ["--augment.scale", "[0.67,1.5]", "--augment.translate", "0.1", "--augment.tilt", "10"],
    "mixup": ["--optim.mixup", "0.2"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "report"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES), help="candidates to compare")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if options.what == "choose":
        choose(options.data, options.only)
    else:
        report(options.data)


def choose(data: Path, names: Sequence[str]) -> None:
    extensions = RECIPES["furniture"]().input.extensions
    known = load_grouped(data, extensions, CHOOSING).splits["train"]
    with tempfile.TemporaryDirectory() as folder:
        copy(known, Path(folder))
        shutil.copy(data / "groups.csv", folder)
        for name in names:
            record = Record("choose", name, RECIPES["furniture"]().override(CANDIDATES[name]))
            for fold in range(INNER_FOLDS):
                record.measure(str(fold), load_grouped(folder, extensions, CHOOSING, fold, INNER_FOLDS))


def report(data: Path) -> None:
    recipe = RECIPES["furniture"]()
    record = Record("report", recipe.name, recipe)
    for repeat in REPEATS:
        for fold in range(FOLDS):
            record.measure(f"{repeat}-{fold}", load_grouped(data, recipe.input.extensions, repeat, fold, FOLDS))


class Record:
    """The trainings by one recipe, in the results file from the moment they are done."""

    def __init__(self, section: str, name: str, recipe: Recipe) -> None:
        self.section, self.name, self.recipe = section, name, recipe
        settings = {key: value for key, value in recipe.settings().items() if key != "data.path"}
        self.entry = read_results().get(section, {}).get(name) or {"settings": settings, "trainings": {}}
        if self.entry["settings"] != settings:
            raise SystemExit(f"{FILE} has {section}/{name} with other settings; remove it there to measure it anew")

    def measure(self, key: str, data: LabeledData) -> None:
        """Train and test, unless that has been done."""
        trainings = self.entry["trainings"]
        if key not in trainings:
            trainings[key] = measure(self.recipe, data)
            self.entry |= {"machine": machine()}
            self.entry |= {method: summary(list(trainings.values()), method) for method in ("network", "forest")}
            results = read_results()
            results.setdefault(self.section, {})[self.name] = self.entry
            FILE.parent.mkdir(exist_ok=True)
            write_text(FILE, json.dumps(results, indent=1) + "\n")
        print(
            f"{self.name}: {key} OA {trainings[key]['network']['OA']:.4f}, so far {self.entry['network']}", flush=True
        )


def read_results() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def measure(recipe: Recipe, data: LabeledData) -> dict[str, Any]:
    """Scores of the recipe's network and of a forest, both trained on one part and tested on the other."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for name, split in data.splits.items():
            copy(split, root / "data" / name)
        recipe = recipe.override([])
        recipe.data = Data("folder", str(root / "data"), val_fraction=recipe.data.val_fraction, workers=1)
        recipe.trainer.progress = False
        run = fit(recipe, root / "run")
        _, scores = evaluate(run, "test")
        seconds = run.results["seconds"]
    forest = RandomForestClassifier(500, random_state=0, n_jobs=1)
    forest.fit(features(recipe.input, data.splits["train"]), data.splits["train"].labels)
    said = forest.predict(features(recipe.input, data.splits["test"]))
    return {
        "samples": len(scores.labels),
        "network": accuracies(scores.labels.numpy(), scores.logits.argmax(1).numpy()),
        "forest": accuracies(data.splits["test"].labels, said),
        "confusion": scores.confusion(len(data.classes)).tolist(),
        "seconds": seconds,
    }


def accuracies(labels: np.ndarray, said: np.ndarray) -> dict[str, float]:
    return {"OA": float(accuracy_score(labels, said)), "mAcc": float(balanced_accuracy_score(labels, said))}


def features(inputs: PointsInput, split: Split) -> np.ndarray:
    """What a person might measure: extents, moments, and how heights, radii and distances between points spread.

    From clouds in the unit sphere, as the network gets them.
    """
    rng, rows = np.random.default_rng(0), []
    for item in split.items:
        cloud = inputs.prepare(inputs.read(item)).double().numpy()
        pairs = cloud[rng.integers(0, len(cloud), (2, 4096))]
        rows.append(
            np.concatenate(
                [
                    np.ptp(cloud, axis=0),
                    np.sort(np.ptp(cloud[:, :2], axis=0)),
                    np.sqrt(np.linalg.eigvalsh(np.cov(cloud.T))),
                    spread(cloud[:, 2], -1, 1),
                    spread(np.hypot(cloud[:, 0], cloud[:, 1]), 0, 1),
                    spread(np.linalg.norm(cloud, axis=1), 0, 1),
                    spread(np.linalg.norm(pairs[0] - pairs[1], axis=1), 0, 2),
                ]
            )
        )
    return np.stack(rows)


def spread(values: np.ndarray, low: float, high: float, bins: int = 16) -> np.ndarray:
    return np.histogram(values, bins, (low, high))[0] / len(values)


def copy(split: Split, folder: Path) -> None:
    """Make a class-per-folder tree of a split."""
    for item in split.items:
        (folder / item.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(item, folder / item.parent.name)


def summary(rows: Sequence[dict[str, Any]], method: str) -> dict[str, float]:
    """Means over folds, and the standard deviation over repeats of what each repeat has for all samples."""
    values = {name: [row[method][name] for row in rows] for name in ("OA", "mAcc")}
    whole = [rows[i : i + FOLDS] for i in range(0, len(rows) - FOLDS + 1, FOLDS)]
    repeats = [
        sum(row[method]["OA"] * row["samples"] for row in part) / sum(row["samples"] for row in part) for part in whole
    ]
    found = {name: round(statistics.mean(column), 4) for name, column in values.items()}
    found |= {f"{name} spread over folds": round(statistics.pstdev(column), 4) for name, column in values.items()}
    if len(repeats) > 1:
        found |= {"OA of repeats": [round(v, 4) for v in repeats], "OA spread over repeats": statistics.stdev(repeats)}
    return found


if __name__ == "__main__":
    main()
