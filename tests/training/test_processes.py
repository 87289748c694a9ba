"""Two processes train as one does."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.runs import image_recipe, write_tree
from unireplknet.data.shards.packing import pack
from unireplknet.errors import UserError
from unireplknet.modalities.image import ImageInput
from unireplknet.training.processes import is_first, started_together, telling, told_folder
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run, fit


def start(recipe: Recipe, out: Path) -> subprocess.Popen[str]:
    """Train by the command, in processes of their own."""
    recipe.save(out.with_suffix(".yaml"))
    words = [sys.executable, "-m", "unireplknet", "train", str(out.with_suffix(".yaml")), "--out", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def train(recipe: Recipe, out: Path) -> str:
    """What the command prints."""
    process = start(recipe, out)
    printed, complaints = process.communicate(timeout=300)
    assert process.returncode == 0, complaints
    return printed


@pytest.mark.parametrize("source", ["folder", "shards"])
def test_two_processes_give_the_weights_of_one(source: str, tmp_path: Path) -> None:
    """Batch statistics synchronised, the same total batch, 21 steps of AdamW, a running average; uneven shards."""
    data = write_tree(tmp_path / "data")
    (data / "red" / "broken.png").unlink()
    pack(data, tmp_path / "shards", ImageInput.extensions, samples=13)
    recipe = image_recipe(data if source == "folder" else tmp_path / "shards", epochs=7)
    recipe.data.source = source
    recipe.input.size = 16  # statistics of a few one-pixel maps would magnify rounding
    recipe.trainer.precision, recipe.trainer.sync_batchnorm = "64-true", True
    one = fit(recipe, tmp_path / "one")
    recipe.trainer.devices = 2
    out = train(recipe, tmp_path / "two")
    two = Run(tmp_path / "two")
    states = [torch.load(run.path / "last.ckpt", weights_only=True) for run in (one, two)]
    assert [state["global_step"] for state in states] == [21, 21]
    for key in ("state_dict", "current_model_state"):
        for name, value in states[0][key].items():
            if name.startswith("model."):
                torch.testing.assert_close(states[1][key][name], value, rtol=0, atol=1e-9)
    for column in ("epoch", "step", "train/loss", "val/loss", "val/accuracy", "val/loss_raw", "val/accuracy_raw"):
        values = [[float(row[column]) for row in run.rows()] for run in (one, two)]
        assert values[1] == pytest.approx(values[0], rel=1e-5), column  # the file has six digits
    assert out.count("test: top-1") == 1, "the other process says nothing"
    assert two.finished
    assert two.results["best_epoch"] == one.results["best_epoch"]


@pytest.mark.parametrize("synchronised", [False, True])
def test_a_process_without_readable_samples_does_not_hold_up_the_other(synchronised: bool, tmp_path: Path) -> None:
    """Each takes one sample at a time, and some are broken."""
    data = write_tree(tmp_path / "data", count=6)
    for name in ("blue/00.png", "blue/01.png", "green/03.png", "red/05.png"):
        (data / name).write_bytes(b"broken")
    recipe = image_recipe(data, epochs=2)
    recipe.trainer.devices, recipe.trainer.sync_batchnorm = 2, synchronised
    recipe.optim.batch_size, recipe.input.size = 2, 16  # so that the last maps have more than one pixel
    train(recipe, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.finished
    assert all(float(row["train/loss"]) < 5 for row in run.rows())
    state = torch.load(run.path / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of this kind are POSIX")
def test_two_processes_stop_together_and_go_on(tmp_path: Path) -> None:
    recipe = image_recipe(write_tree(tmp_path / "data"), epochs=20)
    recipe.model.drop_path = 0.3
    recipe.trainer.devices, recipe.trainer.save_minutes = 2, 0.0
    process = start(recipe, tmp_path / "run")
    while not (tmp_path / "run" / "last.ckpt").exists():
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)  # to the first process alone
    _, complaints = process.communicate(timeout=120)
    assert process.returncode == 75, complaints
    assert not Run(tmp_path / "run").finished
    train(recipe, tmp_path / "run")
    train(recipe, tmp_path / "whole")
    states = [torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"] for name in ("run", "whole")]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items() if name.startswith("model."))


def test_ranks_are_read_from_what_torchrun_and_slurm_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_first()
    assert not started_together()
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "0")
            assert is_first()
            patch.setenv(name, "1")
            assert not is_first()
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "1")
            assert not started_together()
            patch.setenv(name, "2")
            assert started_together()
            with telling(Path("runs/x")):
                assert not started_together()
                assert told_folder() == Path("runs/x")
            assert told_folder() is None


def test_processes_started_together_need_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = image_recipe(write_tree(tmp_path / "data", count=8))
    recipe.trainer.nodes = 2
    with pytest.raises(UserError, match=r"have to agree on a folder: add --out DIR"):
        fit(recipe)
    assert not (tmp_path / "runs").exists()


def test_fsdp_refuses_a_running_average(tmp_path: Path) -> None:
    recipe = image_recipe(write_tree(tmp_path / "data", count=8))
    recipe.trainer.strategy = "fsdp"
    with pytest.raises(UserError, match=r"optim.ema averages whole networks; set it to 0 with trainer.strategy fsdp"):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
