"""Training in a process of its own that kill -9 ends at a chosen moment."""

from __future__ import annotations

import csv
import logging
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.runs import image_recipe
from unireplknet.training.checkpoint import LAST, SECTION
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run

START = "spawn" if sys.platform == "win32" else "forkserver"
"""Never a fork of the test process: its threads would not survive."""

PRELOADED = [
    "tests.killing",
    "unireplknet.tasks.classify.learn",
    "unireplknet.training.engine",
    "unireplknet.training.run",
]


def random_recipe(data: Path, workers: int = 0) -> Recipe:
    """Three steps an epoch, and random numbers drawn wherever training draws any."""
    recipe = image_recipe(data, epochs=4)
    recipe.model.drop_path, recipe.model.drop = 0.3, 0.2
    recipe.data.workers = workers
    recipe.augment.erase = 0.5
    recipe.optim.mixup = 0.2
    recipe.trainer = replace(recipe.trainer, select="accuracy", save_minutes=0.0)
    return recipe


def fit_until(recipe: Recipe, out: Path, moment: str, epoch: int = 1, batch: int = 1) -> int | None:
    """Train in another process that dies at a moment, or when it is done; its exit code, -9 for killed.

    Args:
        recipe: What to train.
        out: The run folder.
        moment: "step" (before the optimiser's), "writing" (in the middle of a state), "validating", "validated",
            "saved" (right after the state of an epoch), "finishing" or "" for never.
        epoch: In which epoch.
        batch: At which batch, for "step" and "writing".
    """
    context: Any = multiprocessing.get_context(START)
    if START == "forkserver":
        context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_fit, args=(recipe, out, moment, epoch, batch))
    process.start()
    process.join()
    return process.exitcode


def _fit(recipe: Recipe, out: Path, moment: str, epoch: int, batch: int) -> None:
    if START == "forkserver":
        # As on the command line: loader workers are children of the training, and notice its death.
        multiprocessing.set_start_method("fork", force=True)
    from unireplknet.training import callbacks, run
    from unireplknet.training.learner import Learner

    patch = pytest.MonkeyPatch()

    def die_in(owner: Any, name: str, when: Any, after: bool = False) -> None:
        original = getattr(owner, name)

        def dying(*args: Any, **kwargs: Any) -> Any:
            due = when(*args, **kwargs)
            if due and not after:
                die()
            result = original(*args, **kwargs)
            if due and after:
                die()
            return result

        patch.setattr(owner, name, dying)

    if moment == "step":
        die_in(Learner, "training_step", lambda task, _, i: (task.current_epoch, i) == (epoch, batch))
    elif moment == "writing":
        _die_while_writing(patch, after=3 * epoch + batch)
    elif moment == "validating":
        die_in(Learner, "validation_step", lambda task, _, i: (task.current_epoch, i) == (epoch, batch))
    elif moment == "validated":
        die_in(callbacks.Keeper, "on_train_epoch_end", lambda self, trainer, _: trainer.current_epoch == epoch)
    elif moment == "saved":
        die_in(callbacks.Keeper, "on_train_epoch_end", lambda self, t, _: t.current_epoch == epoch, after=True)
    elif moment == "finishing":
        die_in(run.unireplknet, "save_weights", lambda *_: True, after=True)
    logging.disable(logging.WARNING)
    run.fit(recipe, out)


def _die_while_writing(patch: pytest.MonkeyPatch, after: int) -> None:
    """Die in the middle of the file that follows ``after`` whole ones."""
    import torch

    save, count = torch.save, 0

    def dying(content: Any, file: Any) -> None:
        nonlocal count
        save(content, file)
        if count == after:
            file.truncate(file.tell() // 2)
            die()
        count += 1

    patch.setattr(torch, "save", dying)


def die() -> None:
    """kill -9, or what Windows has for it."""
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))


def outcome(run: Run) -> dict[str, Any]:
    """All that a run comes to, except times."""
    state = torch.load(run.path / LAST, weights_only=True)
    with (run.path / "metrics.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in ("seconds", "img/s")} for row in csv.DictReader(file)]
    return {
        "rows": rows,
        "weights": state["current_model_state"],
        "average": state["state_dict"],
        "optimizer": state["optimizer_states"],
        "schedule": state["lr_schedulers"],
        "section": state[SECTION],
        "best": torch.load(run.path / "best.ckpt", weights_only=True)["state_dict"],
        "safetensors": load_file(run.path / "model.safetensors"),
        "results": {k: v for k, v in run.results.items() if k != "seconds"},
    }


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other
