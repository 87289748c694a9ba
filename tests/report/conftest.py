"""Reports of a run that classifies, one that forecasts and one that segments."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import scenes, series_data
from unireplknet.cli import main
from unireplknet.training.run import Run, fit


@pytest.fixture(scope="package")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("forecaster")
    return fit(series_data.forecast_recipe(series_data.write_weather(root / "data"), epochs=1), root / "run")


@pytest.fixture(scope="package")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("segmenter")
    return fit(scenes.tiny_recipe(scenes.write_scenes(root / "data"), epochs=1), root / "run")


@pytest.fixture(scope="package")
def reports(trained: Run, forecaster: Run, segmenter: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports by task, as the command line writes them."""
    folder = tmp_path_factory.mktemp("reports")
    runs = {"classification": trained, "forecasting": forecaster, "segmentation": segmenter}
    for task, run in runs.items():
        assert main(["report", str(run.path), "--out", str(folder / f"{task}.html")]) == 0
    return {task: folder / f"{task}.html" for task in runs}
