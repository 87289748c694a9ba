"""Runs of the version in which a modality implied the task: they go on, and are used like others."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import runs
from unireplknet.cli import main
from unireplknet.deploy.describe import recipe_of
from unireplknet.training.recipe import Recipe, find_task
from unireplknet.training.run import Run

ARCHIVE = Path(__file__).parent.parent / "fixtures" / "older_runs.tar.xz"

WRITE: dict[str, tuple[Callable[..., Path], int, str]] = {
    "classification": (runs.write_tree, 8, "red/03.png"),
    "segmentation": (runs.write_scenes, 8, "images/03.png"),
    "detection": (runs.write_objects, 8, "images/03.png"),
    "forecasting": (runs.write_weather, 200, "weather.csv"),
}
"""By task: what writes the data, how many, and a file to predict."""


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Unpacks the run of a task into the working directory and writes its data."""
    monkeypatch.chdir(tmp_path)

    def unpack(task: str) -> Path:
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(filter="data", members=[m for m in archive if m.name.split("/")[0] == task])
        write, count, _ = WRITE[task]
        write(Path(f"{task}-data"), count)
        return Path(task)

    return unpack


def written(run: Path) -> dict[str, Any]:
    return yaml.safe_load((run / "config.yaml").read_text())


@pytest.mark.parametrize("task", WRITE)
def test_an_older_run_goes_on_and_is_used(
    task: str, older: Callable[[str], Path], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, before = older(task), written(Path(task))
    assert "task" not in before
    # The archive has one state only; this one stays where the second epoch is worse than the first.
    (folder / "best.ckpt").write_bytes((folder / "last.ckpt").read_bytes())
    assert main(["train", f"{folder}/config.yaml", "--out", str(folder)]) == 0
    assert "going on after epoch 1 and 0 of" in caplog.text
    run = Run.open(folder)
    assert run.finished
    assert [row["epoch"] for row in run.rows()] == ["1", "2"]
    assert written(folder)["task"] == run.recipe.task.name == task
    assert main(["evaluate", str(folder)]) == 0
    assert main(["predict", str(folder), f"{task}-data/{WRITE[task][2]}"]) == 0
    capsys.readouterr()
    exported = main(["export", str(folder), "--to", "torch-export"])
    assert exported == (2 if task == "detection" else 0), capsys.readouterr().err


@pytest.mark.parametrize("task", WRITE)
def test_every_value_of_an_older_run_is_kept(task: str, older: Callable[[str], Path], tmp_path: Path) -> None:
    before = written(older(task))
    Recipe.load(Path(task) / "config.yaml").save(tmp_path / "now.yaml")
    now = yaml.safe_load((tmp_path / "now.yaml").read_text())
    assert (now.pop("task"), now.pop("modality")) == (task, "series" if task == "forecasting" else "image")
    del before["modality"]
    if task == "forecasting":
        assert before["input"].pop("channels") == 1
    # Settings of other tasks are gone, those of the task have names of their own.
    heads = (
        "decoder",
        "decoder_width",
        "auxiliary",
        "detector",
        "anchors",
        "box_head",
        "head_width",
        "proposals",
        "rois",
    )
    former = {name: before["model"].pop(name) for name in heads} | {"loss": before["optim"].pop("regression")}
    for name in find_task(task).unused:
        part, _, key = name.partition(".")
        del before[part][key]
    head = now.pop("head", {})
    assert head == {name: former["decoder_width" if name == "width" else name] for name in head}
    assert len(head) == {"classification": 0, "segmentation": 3, "detection": 7, "forecasting": 1}[task]
    assert now == before


@pytest.mark.parametrize("task", WRITE)
def test_the_metadata_of_an_older_file_are_understood(task: str, older: Callable[[str], Path]) -> None:
    before = written(older(task))
    metadata = {
        "format": "unireplknet 1",
        "recipe": before["name"],
        "modality": before["modality"],
        "task": task,
        "preprocessing": json.dumps(before["input"]),
        "network": json.dumps(before["model"]),
        "data": json.dumps({"source": before["data"]["source"]}),
        "activation": "softmax",
    }
    recipe, run = recipe_of(metadata, Path("a.onnx")), Recipe.load(Path(task) / "config.yaml")
    assert (recipe.task.name, recipe.input, recipe.model) == (task, run.input, run.model)
    if task != "forecasting":  # which learned by a loss that a file does not tell
        assert recipe.head == run.head


def test_series_that_were_classified_stay_so(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    inputs = {"horizon": 0, "past": 30, "targets": [], "embed_dim": 48, "channels": 2, "width": 5, "normalise": "last"}
    file.write_text(yaml.safe_dump({"name": "a", "modality": "series", "input": inputs}))
    recipe = Recipe.load(file)
    assert recipe.task.name == "classification"
    assert recipe.input.shape == (2, 6, 5)


def test_former_flags_are_understood(older: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    recipe = Recipe.load(older("segmentation") / "config.yaml")
    now = recipe.override(["--model.decoder=upernet", "--model.decoder_width", "8", "--model.drop_path", "0.5"])
    assert (now.head.decoder, now.head.width, now.model.drop_path) == ("upernet", 8, 0.5)
    assert "--model.decoder is called --head.decoder now" in caplog.text
    assert recipe.override({"model": {"auxiliary": 0.3}}).head.auxiliary == 0.3
