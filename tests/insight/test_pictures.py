from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unireplknet.insight.confusion import draw_confusion
from unireplknet.insight.curves import draw_curves
from unireplknet.insight.forecasts import draw_errors, draw_forecast, draw_windows
from unireplknet.insight.gallery import draw_gallery


def inked(picture: Path) -> float:
    """Part of the pixels that are not white."""
    return float((np.asarray(Image.open(picture).convert("L")) < 250).mean())


def test_curves_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    header = "epoch,step,lr,train/loss,val/loss,val/accuracy,seconds\n"
    (tmp_path / "metrics.csv").write_text(header + "1,17,0.1,2.3,,,1\n")
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert inked(tmp_path / "curves.png") > 0.005


@pytest.mark.parametrize("count", [2, 10, 200])
def test_confusion_of_few_and_many_classes(tmp_path: Path, count: int) -> None:
    matrix = np.eye(count, dtype=int) * 3
    matrix[0] = 0  # a class without samples
    draw_confusion(matrix, [f"class {i}" for i in range(count)], tmp_path / "c.png")
    assert 0.005 < inked(tmp_path / "c.png") < 0.9
    with Image.open(tmp_path / "c.png") as image:
        assert max(image.size) < 1600


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_gallery_of_any_map(tmp_path: Path, channels: int) -> None:
    draw_gallery(
        torch.randn(9, channels, 5, 4), [0, 1] * 4 + [1], torch.eye(2)[[0] * 9], ["a", "b"], tmp_path / "g.png"
    )
    assert inked(tmp_path / "g.png") > 0.1


def test_errors_and_forecasts_of_any_number_of_targets(tmp_path: Path) -> None:
    rng, hour = np.random.default_rng(0), np.timedelta64(1, "h")
    start = np.datetime64("2020-01-01T00:00")
    for count in (1, 3):
        names = [f"variable {i}" for i in range(count)]
        units = ["m"] * count
        errors = {"network": rng.random((6, count)), "far off": rng.random((6, count)) + 50}
        draw_errors(errors, names, units, hour, tmp_path / "e.png")
        past, truth = rng.random((2, 9, count)), rng.random((2, 6, count))
        past[0, 3] = np.nan
        times = start + np.arange(2) * hour
        draw_windows(past, truth, {"network": truth + 1}, times, hour, "a", names, units, tmp_path / "w.png")
        past, forecast = rng.random((9, 40, count)), rng.random((6, 40, count))
        stations = [f"station {i}" for i in range(40)]
        before, after = start - np.arange(9, 0, -1) * hour, start + np.arange(6) * hour
        draw_forecast(before, past, after, forecast, stations, names, units, rng.random((5, 8)), tmp_path / "f.png")
        for name in "ewf":
            assert 0.01 < inked(tmp_path / f"{name}.png") < 0.5
