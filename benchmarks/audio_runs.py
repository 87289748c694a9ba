"""Measure the sound recipes, and write what came out to results/audio_runs.json.

    for name in language speakers keywords; do unireplknet fetch $name; done    # the last needs espeak-ng, and minutes
    python benchmarks/audio_runs.py cross speakers keywords --data data

Each seed is one run of the recipe as it stands: the epoch is chosen on a part of the training sounds, the test part is
scored once. Beside it, on the same split: a random forest on the means and deviations of cepstral coefficients.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine
from scipy.fft import dct
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score

from unireplknet.data.split import LabeledData, Split
from unireplknet.modalities.audio import AudioInput
from unireplknet.recipes import RECIPES
from unireplknet.tasks.classify.score import evaluate
from unireplknet.training.run import fit

RESULTS = Path(__file__).parent / "results" / "audio_runs.json"

TASKS = {
    "cross": ("language", "language", "es, fr, ru: trained on Asterisk's speakers, tested on Tux Paint's"),
    "speakers": ("speakers", "speakers", "en, es, fr, it, ru of Asterisk, random test clips: speaker = language"),
    "keywords": ("keywords", "keywords", "ten synthetic words, tested with voices that were not trained with"),
}
"""Recipe, folder and meaning of each task."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", choices=TASKS, nargs="+")
    parser.add_argument("--data", type=Path, required=True, help="the folder of what was fetched")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for task in options.tasks:
        result = measure(task, options.data, options.seeds)
        results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(results | {task: result}, indent=1, sort_keys=True) + "\n")
        print(json.dumps(result, indent=1))


def measure(task: str, data: Path, seeds: list[int]) -> dict[str, Any]:
    name, folder, meaning = TASKS[task]
    runs = []
    for seed in seeds:
        recipe = RECIPES[name]()
        recipe.data.path = str(data / folder)
        recipe.trainer.seed = seed
        recipe.trainer.progress = False
        run = fit(recipe)
        _, scores = evaluate(run, "test")
        labels, said = scores.labels.numpy(), scores.logits.argmax(1).numpy()
        runs.append(
            {"seed": seed, "best_epoch": run.results["best_epoch"], "training_seconds": run.results["seconds"]}
            | describe(labels, said)
        )
    return {
        "meaning": meaning,
        "runs": runs,
        "forest_on_cepstra": forest(run.load_data(), recipe.input),
        "samples": {split: entry["samples"] for split, entry in run.results["data"].items()},
        "unreadable": len(scores.unreadable),
        "parameters": run.results["parameters"],
        "epochs": recipe.optim.epochs,
        "command": f"python benchmarks/audio_runs.py {task} --data PATH",
        "machine": machine(),
    }


def describe(labels: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """Accuracy, balanced accuracy with its 95% bootstrap interval, and the confusion matrix."""
    rng = np.random.default_rng(0)
    draws = [rng.integers(len(labels), size=len(labels)) for _ in range(2000)]
    resampled = [balanced_accuracy_score(labels[at], said[at]) for at in draws]
    low, high = np.percentile(resampled, [2.5, 97.5])
    count = labels.max() + 1
    return {
        "accuracy": float((labels == said).mean()),
        "balanced_accuracy": float(balanced_accuracy_score(labels, said)),
        "interval_95": [float(low), float(high)],
        "confusion": np.bincount(labels * count + said, minlength=count**2).reshape(count, count).tolist(),
    }


def forest(data: LabeledData, inputs: AudioInput) -> dict[str, Any]:
    known = [table(data.splits[name], inputs) for name in ("train", "val")]
    model = RandomForestClassifier(500, random_state=0)
    model.fit(np.concatenate([x for x, _ in known]), np.concatenate([y for _, y in known]))
    x, y = table(data.splits["test"], inputs)
    return describe(y, model.predict(x))


def table(split: Split, inputs: AudioInput) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation over a sound of 20 cepstral coefficients and of their changes."""
    whole = AudioInput(rate=inputs.rate, mels=40, low=100, high=3800, window=32)
    rows = []
    for item in split.items:
        cepstra = dct(whole.spectrogram(whole.read(item)).numpy(), norm="ortho")[:, :20]
        changes = np.diff(cepstra, axis=0, prepend=cepstra[:1])
        rows.append(np.concatenate([f(a, axis=0) for a in (cepstra, changes) for f in (np.mean, np.std)]))
    return np.stack(rows), split.labels


if __name__ == "__main__":
    main()
