import numpy as np
import pandas as pd
import pytest

from tests.runs import series_input, weather_frame, write_weather
from unireplknet.data.series.grid import Grid
from unireplknet.tasks.forecast import baselines
from unireplknet.tasks.forecast.baselines import (
    filled,
    first_times,
    learned_baselines,
    simple_baselines,
    table,
    without_gaps,
)
from unireplknet.tasks.forecast.data import ForecastData, WindowSplit
from unireplknet.tasks.forecast.inputs import load_series

HOUR = np.timedelta64(3600, "s")


STEP = np.array([[0.5, 0.0, 0.4, 0.0], [0.3, 0.2, 0.0, 0.4], [0.0, 0.6, 0.3, 0.0], [0.2, 0.0, 0.5, 0.1]])


def linear_world(hours: int = 2000, seed: int = 0) -> ForecastData:
    """Two stations whose next values are a linear function of the last ones of both, and noise."""
    rng = np.random.default_rng(seed)
    x = np.zeros((hours, 2, 2))
    for t in range(1, hours):
        x[t] = (STEP @ x[t - 1].ravel() + rng.normal(0, 1, 4)).reshape(2, 2)
    grid = Grid(np.datetime64("2020-01-01T00:00:00"), HOUR, (x + 5).astype(np.float32), ("a", "b"), ("x", "y"))
    return ForecastData({"all": grid}, 24, 3, (0, 1)).split(0.2, 0.25)


def to_map(window: object) -> np.ndarray:
    return window.values.transpose(2, 0, 1)  # type: ignore[attr-defined]


def scored(data: ForecastData, name: str = "test") -> dict[str, np.ndarray]:
    known = [data.splits["train"], data.splits["val"]]
    forecasts = simple_baselines(known) | learned_baselines(known, data.splits["val"], to_map)
    x, times, y = table(data.splits[name], to_map)
    return {key: np.square(forecast(x, times) - y) for key, forecast in forecasts.items()}


def test_linear_forecasts_reach_the_noise_of_a_linear_world() -> None:
    data = linear_world()
    errors = scored(data)
    ridge = errors["ridge, all stations at once"]
    x, _, y = table(data.splits["test"], to_map)
    last = x[:, :, -1].transpose(0, 2, 1).reshape(len(x), 4) - 5
    noise = np.square((last @ STEP.T).reshape(-1, 2, 2) + 5 - y[:, 0]).mean()
    assert noise < ridge[:, 0].mean() < 1.1 * noise  # of one step
    assert ridge.mean() < errors["DLinear"].mean() < errors["persistence"].mean()
    assert errors["gradient boosting"].mean() < errors["persistence"].mean()


def test_simple_forecasts_are_pandas(tmp_path: object) -> None:
    inputs = series_input(angles=(), variables=("temp", "wind"), past=30)
    data = load_series(write_weather(tmp_path), inputs).split(0.2, 0.25)  # type: ignore[arg-type]
    splits = data.splits
    known = [splits["train"], splits["val"]]
    forecasts = simple_baselines(known)
    x, times, _ = table(splits["test"], inputs.to_map)
    frame = weather_frame()
    frame["time"] = pd.to_datetime(frame["time"])
    for s, station in enumerate(("north", "south")):
        own = frame[frame.station == station].set_index("time")[["temp", "wind"]].asfreq("h")
        test_begin = splits["test"].grid.times[splits["test"].first]
        last_days = own[own.index < test_begin].iloc[-30 * 24 :]
        means = last_days.groupby(last_days.index.hour).mean()
        for b in range(0, len(times), 17):
            before = own[(own.index < times[b]) & (own.index >= times[b] - 30 * HOUR)].ffill()
            ahead = pd.DatetimeIndex(times[b] + np.arange(6) * HOUR)
            expected = {
                "persistence": np.repeat(before.to_numpy()[-1:], 6, 0),
                "same hour yesterday": before.reindex(ahead - pd.Timedelta("1D")).to_numpy(),
                "hour-of-day mean of 30 days": means.loc[ahead.hour].to_numpy(),
            }
            for name, values in expected.items():
                forecast = forecasts[name](x[b : b + 1], times[b : b + 1])[0, :, s]
                np.testing.assert_allclose(forecast, values, rtol=1e-5, err_msg=name)


def test_gaps_are_filled_as_pandas_fills_them() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 2, 9, 3))
    x[rng.random(x.shape) < 0.4] = np.nan
    x[0, 0, :, 0] = np.nan
    result = filled(x)
    for b, v, s in np.ndindex(4, 2, 3):
        expected = pd.Series(x[b, v, :, s]).ffill().bfill().fillna(0)
        np.testing.assert_array_equal(result[b, v, :, s], expected)


def test_missing_truths_hold_the_last_measurement() -> None:
    x = np.array([1.0, 2.0, np.nan]).reshape(1, 1, 3, 1)
    y = np.array([np.nan, 5.0, np.nan]).reshape(1, 3, 1, 1)
    assert without_gaps(x, y, [0]).ravel().tolist() == [2, 5, 5]


def test_long_data_are_thinned_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "NUMBERS", 86 * 48 * 2)
    grid = Grid(np.datetime64("2020-01-01T00:00:00"), HOUR, np.zeros((400, 2, 1), np.int8), ("a", "b"), ("x",))
    split = WindowSplit(grid, 0, 400, np.arange(48, 390), 48, 2, (0,))
    windows, times, truth = table(split, to_map)
    assert len(windows) == len(times) == len(truth) == 86
    assert (np.diff(times) == 4 * HOUR).all()
    assert first_times(split, [3])[0] == grid.start + 51 * HOUR


def test_later_data_change_no_baseline() -> None:
    data = linear_world()
    x, times, _ = table(data.splits["val"], to_map)
    forecasts = []
    for change in (0.0, 1e3):
        values = data.grid.values.copy()
        values[data.splits["test"].first :] += change
        other = Grid(data.grid.start, HOUR, values, ("a", "b"), ("x", "y"))
        splits = ForecastData({"all": other}, 24, 3, (0, 1)).split(0.2, 0.25).splits
        known = [splits["train"], splits["val"]]
        forecasts.append(simple_baselines(known) | learned_baselines(known, splits["val"], to_map))
    for name, forecast in forecasts[0].items():
        assert np.array_equal(forecast(x, times), forecasts[1][name](x, times)), name
