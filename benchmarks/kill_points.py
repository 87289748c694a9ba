"""Kill a training at random moments, let it go on, and compare with one that was never interrupted.

    python benchmarks/kill_points.py --points 20

Each point is the command `unireplknet train`, ended by kill -9 after a random part of the time that the whole
training takes, and the same command once more. Half of the points prepare samples in worker processes. Writes
results/kill_points.json.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from _common import write_result
from safetensors.torch import load_file

from unireplknet.recipes import find_recipe
from unireplknet.training.checkpoint import SECTION
from unireplknet.training.run import Run

SETTINGS = {
    "optim": {"epochs": 3, "batch_size": 128, "lr": 4e-3, "warmup_epochs": 1},
    "trainer": {"save_minutes": 0.0, "progress": False, "accelerator": "cpu"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        find_recipe("digits").override(SETTINGS).save(root / "recipe.yaml")
        train(root, "whole", 0, None)
        expected, seconds = outcome(root / "whole"), Run.open(root / "whole").results["seconds"]
        points = [kill(root, i, draw.uniform(0, seconds), i % 2, expected) for i in range(options.points)]
    identical = sum(p["bit_identical"] for p in points)
    path = write_result(
        "kill_points",
        {
            "command": f"python benchmarks/kill_points.py --points {options.points} --seed {options.seed}",
            "recipe": "digits",
            "settings": SETTINGS,
            "seconds_uninterrupted": seconds,
            "bit_identical": identical,
            "of": len(points),
            "points": points,
        },
    )
    print(f"{identical} of {len(points)} finished bit-identical; {path}")


def kill(root: Path, number: int, after: float, workers: int, expected: dict[str, Any]) -> dict[str, Any]:
    name = f"run{number}"
    train(root, name, workers, after)
    state = last_state(root / name)
    train(root, name, workers, None)
    result = {
        "killed_after_seconds": round(after, 2),
        "workers": workers,
        "went_on_from": state,
        "bit_identical": same(outcome(root / name), expected),
    }
    print(result, flush=True)
    return result


def train(root: Path, name: str, workers: int, kill_after: float | None) -> None:
    """Run the command, to its end or to so many seconds after the run folder is there."""
    words = ["train", str(root / "recipe.yaml"), "--out", str(root / name), "--data.workers", str(workers)]
    with (root / f"{name}.log").open("a") as log:
        process = subprocess.Popen([sys.executable, "-m", "unireplknet", *words], stdout=log, stderr=log)
        while not (root / name / "config.yaml").exists() and process.poll() is None:
            time.sleep(0.01)
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if (process.returncode == 0) != (kill_after is None):
        raise SystemExit((root / f"{name}.log").read_text())


def last_state(run: Path) -> str:
    """How far the run had come."""
    if not (run / "last.ckpt").exists():
        return "the beginning"
    section = torch.load(run / "last.ckpt", weights_only=True)[SECTION]
    return f"epoch {section['epoch']}, batch {section['batch']}"


def outcome(run: Path) -> dict[str, Any]:
    last = torch.load(run / "last.ckpt", weights_only=True)
    return {
        "weights": last["current_model_state"],
        "average": last["state_dict"],
        "optimizer": last["optimizer_states"][0]["state"],
        "best": load_file(run / "model.safetensors"),
    }


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    return torch.equal(one, other)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
