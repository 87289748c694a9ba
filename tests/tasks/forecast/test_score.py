import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.killing import assert_same, fit_until, outcome
from tests.runs import forecast_recipe, weather_frame, write_weather
from unireplknet.cli import main
from unireplknet.errors import UserError
from unireplknet.models.weights import load_weights
from unireplknet.tasks.forecast.inputs import load_series
from unireplknet.tasks.forecast.score import MODEL, Errors, evaluate, predict
from unireplknet.training.learner import build_learner
from unireplknet.training.run import Run, fit


@pytest.fixture(scope="module")
def forecasting(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run; tests add to its folder but change nothing in it."""
    root = tmp_path_factory.mktemp("forecasting")
    return fit(forecast_recipe(write_weather(root / "data"), epochs=6), root / "run")


def test_errors_are_those_of_numpy_on_what_was_measured() -> None:
    rng = np.random.default_rng(0)
    forecast, truth = rng.normal(size=(9, 4, 3, 2)), rng.normal(size=(9, 4, 3, 2))
    truth[rng.random(truth.shape) < 0.3] = np.nan
    errors = Errors.of(forecast[:5], truth[:5]) + Errors.of(forecast[5:], truth[5:])
    np.testing.assert_allclose(errors.mse, np.nanmean((forecast - truth) ** 2, axis=(0, 1, 2)))
    np.testing.assert_allclose(errors.mae, np.nanmean(np.abs(forecast - truth), axis=(0, 1, 2)))
    np.testing.assert_allclose(errors.mae_by_lead, np.nanmean(np.abs(forecast - truth), axis=(0, 2)))


def test_a_run_learns_and_is_scored_in_the_units_of_the_file(forecasting: Run) -> None:
    assert forecasting.names == ("north", "south")
    assert forecasting.finished
    name, scores = evaluate(forecasting)
    assert name == "test"
    written = json.loads((forecasting.path / "evaluation-test.json").read_text(encoding="utf-8"))
    assert written == {"split": "test"} | scores.summary()
    assert next(iter(written["scores"])) == MODEL
    learned = ("ridge", "DLinear", "gradient boosting")
    assert {*learned, *(f"{name}, train and val" for name in learned)} < set(written["scores"])
    assert written["units"] == {"temp": "°C", "wind": "m/s"}
    assert written["scores"][MODEL]["temp"]["mse"] < 0.5 * written["scores"]["persistence"]["temp"]["mse"]
    for picture in ("errors-test.png", "forecasts-test.png", "curves.png"):
        with Image.open(forecasting.path / picture) as image:
            assert min(image.size) > 100

    data, model, errors = forecasting.load_data(), forecasting.load_model(), []
    split = data.splits["test"]
    for i in range(len(split)):  # one window at a time, by hand
        forecast = model(forecasting.recipe.input.to_map(split[i])[None])[0].detach()
        errors.append((forecast - split.label(i)).numpy())
    mae = np.nanmean(np.abs(errors), axis=(0, 1, 2))
    for target, value in zip(("temp", "wind"), mae, strict=True):
        assert written["scores"][MODEL][target]["mae"] == pytest.approx(value, rel=1e-4)


def test_the_statistics_in_the_network_are_those_of_training(forecasting: Run) -> None:
    recipe, model = forecasting.recipe, forecasting.load_model()
    data = load_series(Path(recipe.data.path), recipe.input).split(0.2, 0.25)  # type: ignore[arg-type]
    rows = data.grid.values[: data.splits["train"].end].reshape(-1, 4)
    np.testing.assert_allclose(model.mean, np.nanmean(rows, 0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model.std, np.nanstd(rows, 0), rtol=1e-5)
    again = recipe.build(forecasting.names)
    load_weights(again, forecasting.path)  # type: ignore[arg-type]
    assert_same(again.state_dict(), model.state_dict())


def test_training_leaves_the_linear_part_alone_and_the_rest_learns(forecasting: Run) -> None:
    recipe, data = forecasting.recipe, forecasting.load_data()
    start, end = build_learner(recipe, data, steps_per_epoch=1).model, forecasting.load_model()
    assert start.linear.weight.abs().max() > 0
    assert_same(dict(start.linear.state_dict()), dict(end.linear.state_dict()))
    assert not start.head.weight.any()
    assert end.head.weight.any()


def test_the_next_rows_are_forecast_from_a_file(forecasting: Run, tmp_path: Path) -> None:
    frame = weather_frame(100)
    frame.to_csv(tmp_path / "now.csv", index=False)
    (prediction,) = predict(forecasting, [tmp_path / "now.csv"])
    assert prediction.table is not None
    assert prediction.picture is not None
    table = pd.read_csv(prediction.table)
    assert list(table.columns) == ["time", "station", "temp", "wind"]
    last = pd.to_datetime(frame["time"], utc=True).max()
    times = pd.to_datetime(table["time"])
    assert times.unique().tolist() == [last + pd.Timedelta(hours=h) for h in range(1, 7)]
    assert table["station"].tolist() == ["north", "south"] * 6

    inputs = forecasting.recipe.input
    window = inputs.read(tmp_path / "now.csv")
    forecast = forecasting.load_model()(inputs.to_map(window)[None])[0].detach()
    np.testing.assert_allclose(table[["temp", "wind"]].to_numpy().reshape(6, 2, 2), forecast, rtol=1e-3)
    with Image.open(prediction.picture) as image:
        assert min(image.size) > 100


def test_forecasts_of_files_of_one_name_do_not_replace_one_another(forecasting: Run, tmp_path: Path) -> None:
    for folder, hours in (("a", 100), ("b", 120)):
        (tmp_path / folder).mkdir()
        weather_frame(hours).to_csv(tmp_path / folder / "same.csv", index=False)
    tables = [p.table for p in predict(forecasting, [tmp_path])]
    assert [t.name for t in tables if t] == ["forecast-same.csv", "forecast-same-2.csv"]
    first, second = (pd.to_datetime(pd.read_csv(t)["time"]).min() for t in tables if t)
    assert second - first == pd.Timedelta(hours=20)


def test_files_that_cannot_be_forecast_are_named(forecasting: Run, tmp_path: Path) -> None:
    frame = weather_frame(100)
    frame.to_csv(tmp_path / "good.csv", index=False)
    frame[frame.station == "north"].to_csv(tmp_path / "half.csv", index=False)
    frame[frame.time < "2020-03-01T05:00"].to_csv(tmp_path / "short.csv", index=False)
    good, half, short = predict(forecasting, [tmp_path])
    assert not good.problem
    assert "half.csv has the stations north; expected north, south" in half.problem
    assert "short.csv has 5 times, a forecast needs the last 24" in short.problem
    with pytest.raises(UserError, match=r"short.csv has 5 times"):
        predict(forecasting, [tmp_path / "short.csv"])
    with pytest.raises(UserError, match="nowhere does not exist"):
        predict(forecasting, [tmp_path / "nowhere"])


def test_a_killed_forecaster_goes_on_bit_for_bit(tmp_path: Path) -> None:
    recipe = forecast_recipe(write_weather(tmp_path / "data", 300))
    whole = fit(recipe, tmp_path / "whole")
    assert fit_until(recipe, tmp_path / "run", "step", epoch=1, batch=1) != 0
    assert not Run(tmp_path / "run").finished
    assert_same(outcome(fit(recipe, tmp_path / "run")), outcome(whole))


def test_accuracy_cannot_choose_a_forecaster(tmp_path: Path) -> None:
    recipe = forecast_recipe(write_weather(tmp_path / "data", 300))
    recipe.trainer.select = "accuracy"
    with pytest.raises(UserError, match=r"is accuracy, which forecasting does not have; set it to loss or mae or last"):
        fit(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_train_evaluate_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_weather(tmp_path / "data", 300)
    forecast_recipe(tmp_path / "elsewhere").save(tmp_path / "breeze.yaml")
    words = ["train", str(tmp_path / "breeze.yaml"), "--data", str(data), "--out", str(tmp_path / "run")]
    assert main([*words, "--optim.epochs", "1"]) == 0
    out = capsys.readouterr().out
    for word in ("temp (°C): MSE, MAE", MODEL, "persistence", "DLinear", "gradient boosting", "windows, 0 left out"):
        assert word in out
    assert main(["evaluate", str(tmp_path / "run"), "--split", "val"]) == 0
    assert "train and val" not in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "run"), str(data / "weather.csv")]) == 0
    assert "forecast-weather.csv" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "run"), str(data / "weather.csv"), "--format", "json"]) == 0
    (prediction,) = json.loads(capsys.readouterr().out)
    with open(prediction["table"], newline="") as file:
        assert len(list(csv.DictReader(file))) == 6 * 2


def test_series_are_classified_like_anything_else(tmp_path: Path) -> None:
    from unireplknet.modalities.series import SeriesAugment, SeriesInput
    from unireplknet.tasks.classify.score import evaluate as score

    rng = np.random.default_rng(0)
    for name, frequency in (("slow", 2), ("fast", 6)):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(48):
            wave = np.sin(frequency * np.linspace(0, 6.28, 50) + rng.uniform(0, 6)) + rng.normal(0, 0.1, 50)
            pd.DataFrame({"height": wave}).to_csv(tmp_path / "data" / name / f"{i}.csv", index=False)
    recipe = forecast_recipe(tmp_path / "data", epochs=12)
    recipe = replace(
        recipe,
        task_name="classification",
        data=replace(recipe.data, source="folder"),
        input=SeriesInput(past=64),
        augment=SeriesAugment(noise=0.1, scale=0.1),
        optim=replace(recipe.optim, batch_size=8),
        head=None,  # that of the task
    )
    torch.manual_seed(0)
    run = fit(recipe, tmp_path / "run")
    assert run.classes == ("fast", "slow")
    assert score(run)[1].summary(run.classes)["top1"] > 0.8
