"""Reports of runs of every task."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import runs
from unireplknet.cli import main
from unireplknet.training.run import Run, fit


@pytest.fixture(scope="package")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("forecaster")
    return fit(runs.forecast_recipe(runs.write_weather(root / "data"), epochs=1), root / "run")


@pytest.fixture(scope="package")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("segmenter")
    return fit(runs.mask_recipe(runs.write_scenes(root / "data"), epochs=1), root / "run")


@pytest.fixture(scope="package")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("detector")
    recipe = runs.box_recipe(runs.write_objects(root / "data"), epochs=1, detector="mask_rcnn")
    return fit(recipe, root / "run")


@pytest.fixture(scope="package")
def reports(
    trained: Run, forecaster: Run, segmenter: Run, detector: Run, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The reports by task, as the command line writes them."""
    folder = tmp_path_factory.mktemp("reports")
    runs = {"classification": trained, "forecasting": forecaster, "segmentation": segmenter, "detection": detector}
    for task, run in runs.items():
        assert main(["report", str(run.path), "--out", str(folder / f"{task}.html")]) == 0
    return {task: folder / f"{task}.html" for task in runs}
