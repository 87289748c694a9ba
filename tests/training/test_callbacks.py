"""What a run shows while it trains: its pace, its curves, and the weights beside their average."""

import csv
import logging
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.optim.swa_utils import AveragedModel

from tests.runs import image_recipe, write_tree
from unireplknet.data.dataset import Batch
from unireplknet.tasks.classify.score import score
from unireplknet.training import callbacks
from unireplknet.training.callbacks import Pace
from unireplknet.training.loader import build_loader
from unireplknet.training.run import Run, fit


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("callbacks") / "data", count=8)


def test_pace_of_two_processes_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, logged = [100.0], {}
    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.25}])
    trainer: Any = SimpleNamespace(
        world_size=2, num_training_batches=4, max_epochs=3, current_epoch=0, optimizers=[optimizer]
    )
    module: Any = SimpleNamespace(log=lambda name, value, **_: logged.update({name: value}))

    def train(pace: Pace, batches: range, seconds: float) -> None:
        for i in batches:
            clock[0] += seconds
            pace.on_train_batch_end(trainer, module, None, Batch(None, torch.zeros(5), None, []), i)  # type: ignore[arg-type]

    pace = Pace()
    clock[0] += 1000  # setting up is no training
    pace.on_train_start(trainer, module)
    pace.on_train_epoch_start(trainer, module)
    train(pace, range(2), 2.0)
    assert logged == {"img/s": 5 * 2 / 2.0, "lr": 0.25}
    assert pace.left(trainer) == timedelta(seconds=10 * 2)
    train(pace, range(2, 4), 4.0)
    clock[0] += 7  # validation
    pace.on_train_epoch_end(trainer, module)
    assert pace.epoch_speed == 4 * 5 * 2 / 12
    assert pace.left(trainer) == timedelta(seconds=8 * 3 + 2 * 7)

    resumed = Pace()
    trainer.current_epoch = 2
    resumed.on_train_start(trainer, module)
    train(resumed, range(3, 4), 1.0)
    assert resumed.left(trainer) == timedelta()
    assert resumed.epoch_speed == 10


def test_without_a_terminal_each_epoch_is_a_line_with_speed_and_time_left(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "unireplknet"):
        run = fit(image_recipe(data, epochs=2), tmp_path / "run")
    lines = [r.getMessage() for r in caplog.records if r.getMessage().startswith("epoch ")]
    assert len(lines) == 2
    assert all("img/s " in line and "  left 0:00:0" in line for line in lines)
    assert lines[1].endswith("left 0:00:00")
    assert all(1 < float(row["img/s"]) < 1e6 for row in run.rows())


def test_the_bar_shows_loss_rate_speed_and_the_end_of_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = image_recipe(data, epochs=2)
    recipe.trainer.progress = True
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    fit(recipe, tmp_path / "run")
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    for word in ("loss=", "lr=", "img/s=", "ETA=0:00:0"):
        assert word in shown
    assert "v_num" not in shown


def test_tensorboard_has_speed_and_rate(trained: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained.path / "tensorboard"))
    events.Reload()
    assert {"loss", "lr", "img/s", "val/loss", "val/loss_raw", "val/accuracy_raw"} <= set(events.Tags()["scalars"])


def test_weights_are_scored_beside_their_average(trained: Run) -> None:
    """The raw columns of the last epoch belong to the weights in last.ckpt that training would go on with."""
    state = torch.load(trained.path / "last.ckpt", weights_only=True)["current_model_state"]
    model = trained.load_model()
    model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
    scores = score(model, build_loader(trained.recipe, trained.load_data().splits["val"]))
    row = trained.rows()[-1]
    assert F.cross_entropy(scores.logits, scores.labels).item() == pytest.approx(float(row["val/loss_raw"]), rel=1e-4)
    right = (scores.logits.argmax(1) == scores.labels).float().mean().item()
    assert right == pytest.approx(float(row["val/accuracy_raw"]), abs=1e-5)
    assert float(row["val/loss"]) != pytest.approx(float(row["val/loss_raw"]), rel=1e-3)


def test_the_average_of_a_short_training_has_left_the_first_weights(data: Path, tmp_path: Path) -> None:
    """With the same decay from the first step on it would be the random weights at the beginning, but for 1%."""
    recipe = image_recipe(data, epochs=2)
    recipe.optim.ema, recipe.optim.batch_size = 0.9999, 2
    run = fit(recipe, tmp_path / "run")
    state = torch.load(run.path / "last.ckpt", weights_only=True)
    first = run.first_model().head.fc.weight
    average, last = (state[name]["model.head.fc.weight"] for name in ("state_dict", "current_model_state"))
    assert (average - first).norm() > 0.4 * (last - first).norm() > 0
    assert not torch.equal(average, last)


def test_the_average_is_that_of_the_definition() -> None:
    """Of weights 1, 2, 3, ...: the first begins it, and the decay grows from 2 in 6 to what it is to be."""
    model = torch.nn.Linear(1, 1, dtype=torch.float64)
    averaged, expected = AveragedModel(model, **callbacks.Averaging(0.9)._kwargs), 1.0
    for step in range(1, 201):
        torch.nn.init.constant_(model.weight, step)
        averaged.update_parameters(model)
        if step > 1:
            decay = min(0.9, step / (4 + step))
            expected = decay * expected + (1 - decay) * step
        assert averaged.module.weight.item() == pytest.approx(expected, rel=1e-12)


def test_without_an_average_there_are_no_raw_columns(data: Path, tmp_path: Path) -> None:
    recipe = image_recipe(data, epochs=1)
    recipe.optim.ema = 0.0
    run = fit(recipe, tmp_path / "run")
    assert not [name for name in run.rows()[0] if "raw" in name]
    assert float(run.rows()[0]["val/loss"]) > 0


def test_curves_are_whole_and_new_after_every_epoch(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks.Curves, "due", property(lambda self: 0.0, lambda self, value: None), raising=False)
    keep, seen = callbacks.Keeper.on_train_epoch_end, []

    def look(self: Any, trainer: Any, module: Any) -> None:
        with Image.open(self.folder / "curves.png") as picture:
            picture.load()
        seen.append((self.folder / "curves.png").read_bytes())
        keep(self, trainer, module)

    monkeypatch.setattr(callbacks.Keeper, "on_train_epoch_end", look)
    fit(image_recipe(data, epochs=2), tmp_path / "run")
    assert len(set(seen)) == 2


def test_drawing_takes_a_small_part_of_short_epochs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = [0.0], []

    def draw(folder: Path, scores: object) -> None:
        drawn.append(clock[0])
        clock[0] += 0.5

    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(callbacks, "refresh_curves", draw)
    curves, trainer = callbacks.Curves(tmp_path, {}), SimpleNamespace(is_global_zero=True)
    for _ in range(60):
        clock[0] += 1
        curves.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert drawn[0] == 1
    assert 0.5 * len(drawn) <= clock[0] / 10
    trainer.is_global_zero, clock[0] = False, 1e6
    curves.on_train_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert drawn[-1] < 1e6, "only the first process draws"


def test_a_run_survives_curves_that_cannot_be_drawn(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(metrics: Path, picture: Any, scores: object) -> None:
        picture.write(b"half")
        raise RuntimeError("no\nfont")

    monkeypatch.setattr("unireplknet.insight.curves.draw_curves", broken)
    run = fit(image_recipe(data, epochs=1), tmp_path / "run")
    assert run.finished
    assert "curves.png could not be drawn: no font" in caplog.text
    assert not [p for p in run.path.iterdir() if p.name.startswith("curves.png")]
    with (run.path / "metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
