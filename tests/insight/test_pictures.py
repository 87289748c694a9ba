from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unireplknet.insight.curves import draw_curves
from unireplknet.modalities.panels import Panel
from unireplknet.tasks.classify.confusion import confusions, draw_confusion
from unireplknet.tasks.classify.gallery import Shown, draw_gallery, thumbnail
from unireplknet.tasks.classify.task import Classification
from unireplknet.tasks.forecast.draw import draw_errors, draw_forecast, draw_windows


def inked(picture: Path) -> float:
    """Part of the pixels that are not white."""
    return float((np.asarray(Image.open(picture).convert("L")) < 250).mean())


def test_curves_of_a_run_that_has_only_begun(tmp_path: Path) -> None:
    header = "epoch,step,lr,train/loss,val/loss,val/accuracy,seconds\n"
    (tmp_path / "metrics.csv").write_text(header + "1,17,0.1,2.3,,,1\n")
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png", Classification.scores)
    assert inked(tmp_path / "curves.png") > 0.005


@pytest.mark.parametrize("count", [2, 10, 200])
def test_confusion_of_few_and_many_classes(tmp_path: Path, count: int) -> None:
    matrix = np.eye(count, dtype=int) * 3
    matrix[0] = 0  # a class without samples
    draw_confusion(matrix, [f"class {i}" for i in range(count)], tmp_path / "c.png")
    assert 0.005 < inked(tmp_path / "c.png") < 0.9
    with Image.open(tmp_path / "c.png") as image:
        assert max(image.size) < 1600


def test_gallery_of_no_one_and_many_samples(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 4, 3), dtype=np.uint8)
    inks = []
    for count in (0, 1, 9):
        draw_gallery([Shown("a.png", pixels, "a", "$", 0.5)] * count, "a title", tmp_path / "g.png")
        inks.append(inked(tmp_path / "g.png"))
    assert 0 < inks[0] < inks[1] < inks[2]


def test_thumbnail_lays_panels_side_by_side() -> None:
    ramp = np.arange(6.0).reshape(2, 3)
    sheet = thumbnail([Panel(ramp), Panel(ramp.max() - ramp), Panel(np.zeros((2, 3)))])
    assert sheet.shape == (2 * 2 + 1, 3 * 2 + 1, 3)
    np.testing.assert_array_equal(sheet[:2, :3, 0], [[0, 51, 102], [153, 204, 255]])
    np.testing.assert_array_equal(sheet[:2, 4:, 1], [[255, 204, 153], [102, 51, 0]])
    assert not sheet[3:, :3].any(), "one grey is no contrast"
    assert len(set(sheet[2].ravel().tolist())) == 1, "a line between them"


def test_thumbnail_keeps_colours_and_gives_colours_to_axes() -> None:
    colours = np.random.default_rng(0).random((3, 4, 3))
    np.testing.assert_array_equal(thumbnail([Panel(colours)]), np.round(255 * colours).astype(np.uint8))
    sound = thumbnail([Panel(np.array([[-7.0, 2.0]]), across="time, s")])[0]
    assert sound[0].sum() < 20 < 600 < sound[1].sum(), "from dark to bright"
    assert len(set(sound[1].tolist())) == 3


def test_confusions_are_sorted_and_leave_the_right_ones_out() -> None:
    matrix = np.array([[9, 1, 0], [0, 8, 3], [1, 0, 7]])
    assert confusions(matrix, "abc") == [("b", "c", 3), ("a", "b", 1), ("c", "a", 1)]


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
