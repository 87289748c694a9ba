import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.runs import series_input, weather_frame, write_weather
from unireplknet.data.series.tables import read_csv
from unireplknet.errors import UserError
from unireplknet.tasks.forecast.inputs import ForecastInput, load_series


def test_a_table_becomes_what_pandas_pivots_it_to(tmp_path: Path) -> None:
    write_weather(tmp_path)
    grid = read_csv(tmp_path / "weather.csv", "time", "station", ("wind", "temp"))
    frame = weather_frame()
    frame["time"] = pd.to_datetime(frame["time"])
    assert len(frame) < 2 * len(grid.values)  # some rows are missing
    for number, name in enumerate(("wind", "temp")):
        table = frame.pivot(index="time", columns="station", values=name).asfreq("h")
        np.testing.assert_allclose(grid.values[:, :, number], table.to_numpy(), rtol=1e-6)
        assert (grid.times == table.index.to_numpy()).all()
    assert grid.stations == ("north", "south")
    assert grid.coordinates is not None
    assert grid.coordinates.tolist() == [[60, 5], [40, 5]]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(st.none() | st.floats(-1e4, 1e4, width=32), min_size=2, max_size=2), min_size=2, max_size=20))
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[list[float | None]]) -> None:
    values = np.array([[math.nan if v is None else v for v in row] for row in rows], np.float32)
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    times = pd.date_range("2021-12-31T23:00Z", periods=len(values), freq="10min")
    pd.DataFrame({"time": times, "x": values[:, 0], "y": values[:, 1]}).to_csv(file, index=False)
    grid = read_csv(file, step="10min")
    assert grid.values.shape == (len(values), 1, 2)
    np.testing.assert_array_equal(grid.values[:, 0], values)


def test_an_angle_becomes_sine_and_cosine(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,from\n2020-01-01T00:00,0\n2020-01-01T01:00,90\n2020-01-01T02:00,\n")
    grid = read_csv(tmp_path / "a.csv", angles=("from",))
    assert grid.variables == ("from_sin", "from_cos")
    np.testing.assert_allclose(grid.values[:, 0], [[0, 1], [1, 0], [math.nan] * 2], atol=1e-7)


HEAD = "time,station,temp\n2020-01-01T00:00,a,1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "2020-01-01T01:00,a,warm\n", r"weather.csv line 3: 'warm' in column 'temp' is not a number"),
        (HEAD + "\n2020-01-01T01:00,a,1e999\n", r"weather.csv line 4: '1e999' in column 'temp' is not a number"),
        (HEAD + "yesterday,a,1\n", r"weather.csv line 3: 'yesterday' is not a time; expected one such as 2013"),
        (HEAD + ",a,1\n", r"weather.csv line 3: nan is not a time"),
        (
            HEAD + "2020-01-01T00:00,b,1\n2019-12-31T23:00,a,2\n",
            r"line 4: 2019-12-31T23:00:00 is earlier than that",
        ),
        (
            HEAD + "2020-01-01T00:00,b,1\n2020-01-01T00:00,a,2\n",
            r"line 4: 2020-01-01T00:00:00 is there already, in",
        ),
        (
            HEAD + "2020-01-01T01:07,a,1\n",
            r"line 3: 2020-01-01T01:07:00 is not on the grid .* steps of 1h; set",
        ),
        (HEAD + "2999-01-01T01:00,a,1\n", r"are \d+ steps of 1h, but there are 2 rows: is a time wrong"),
        ("time,temp\n2020-01-01T00:00,1\n", r"weather.csv has no column 'station', only time, temp"),
        ("time,station,temp\n", r"weather.csv has no rows"),
        ("", r"weather.csv cannot be read as CSV"),
    ],
)
def test_bad_tables_are_named_by_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "weather.csv").write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read_csv(tmp_path / "weather.csv", station="station")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_other_mistakes_are_named(tmp_path: Path) -> None:
    write_weather(tmp_path)
    with pytest.raises(UserError, match=r"input.variables is empty"):
        load_series(tmp_path, ForecastInput(horizon=3))
    with pytest.raises(UserError, match=r"nowhere does not exist"):
        load_series(tmp_path / "nowhere", series_input())
    with pytest.raises(UserError, match=r"input.targets has 'snow', input.variables only temp, wind, from_sin"):
        series_input(targets=("snow",), units=())
    with pytest.raises(UserError, match=r"input.step is 'often'; expected a time such as 1h"):
        load_series(tmp_path, series_input(step="often"))
    (tmp_path / "stations.csv").write_text("station,latitude,longitude\nnorth,60,5\n")
    with pytest.raises(UserError, match=r"stations.csv has no station 'south'"):
        load_series(tmp_path, series_input())
    (tmp_path / "more.csv").write_text("")
    with pytest.raises(UserError, match=r"has 2 CSV files beside stations.csv; name the one to read"):
        load_series(tmp_path, series_input())
