import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.series_data import series_input, weather_frame, write_weather
from unireplknet.errors import UserError
from unireplknet.modalities.folder import Draw, MapDataset, load_folder
from unireplknet.modalities.series import (
    SeriesAugment,
    SeriesInput,
    load_arrays,
    load_series,
    load_ts,
    read_csv,
    read_ts,
)
from unireplknet.modalities.windows import Window


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
    with pytest.raises(UserError, match=r"input.horizon is 0"):
        load_series(tmp_path, SeriesInput())
    with pytest.raises(UserError, match=r"input.variables is empty"):
        load_series(tmp_path, SeriesInput(horizon=3))
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


def test_the_map_of_a_window_is_its_numbers_and_the_calendar(tmp_path: Path) -> None:
    inputs = series_input(calendar=("hour", "weekday", "year"))
    data = load_series(write_weather(tmp_path), inputs).divided(0.2, 0.25)
    window = data.splits["train"][7]
    map = inputs.to_map(window)
    assert map.shape == (4 + 6, 24, 2)
    np.testing.assert_array_equal(map[:4], window.values.transpose(2, 0, 1))
    times = pd.DatetimeIndex(window.times)
    turns = (
        times.hour / 24,
        (times.day_of_week + times.hour / 24) / 7,
        (times.day_of_year - 1 + times.hour / 24) / 366,
    )
    for number, turn in enumerate(turns):
        for place, wave in enumerate((np.sin, np.cos)):
            expected = wave(2 * np.pi * np.asarray(turn))
            np.testing.assert_allclose(map[4 + 2 * number + place, :, 1], expected, atol=1e-6)


def test_default_augmentation_changes_nothing_and_others_only_measurements(tmp_path: Path) -> None:
    inputs = series_input()
    data = load_series(write_weather(tmp_path), inputs).divided(0.2, 0.25)
    split = data.splits["train"]
    plain = MapDataset(split, inputs.read, inputs.to_map)
    same = MapDataset(split, inputs.read, SeriesAugment().bind(inputs))
    changed = MapDataset(split, inputs.read, SeriesAugment(noise=0.2, scale=0.1, hide=0.3).bind(inputs))
    torch.testing.assert_close(plain[Draw(0, 3)].map, same[Draw(0, 3)].map, equal_nan=True)
    one, again, later = changed[Draw(0, 3)], changed[Draw(0, 3)], changed[Draw(1, 3)]
    assert one.map is not None
    assert plain[Draw(0, 3)].map is not None
    torch.testing.assert_close(one.map, again.map, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(one.map, later.map)
    assert torch.equal(one.map[4:], plain[Draw(0, 3)].map[4:])  # the calendar
    torch.testing.assert_close(one.label, plain[Draw(0, 3)].label, equal_nan=True)
    hidden = one.map[:4].isnan().float().mean() - plain[Draw(0, 3)].map[:4].isnan().float().mean()
    assert 0.15 < hidden < 0.4


def test_the_arrays_of_global_temperature(tmp_path: Path) -> None:
    rng, start = np.random.default_rng(0), np.datetime64("2019-01-01T00:00")
    for split, length in (("train", 200), ("val", 100), ("test", 100)):
        tenths = rng.integers(-300, 300, (length, 6, 1)).astype(np.int16)
        np.save(tmp_path / f"temp_global_hourly_{split}.npy", tenths)
        times = start + np.arange(length) * np.timedelta64(1, "h")
        np.save(tmp_path / f"data_time_{split}.npy", times.astype(str) if split == "val" else times)
    inputs = SeriesInput(horizon=24, variables=("temp_global_hourly",), factor=0.1, stations_per_map=3)
    data = load_series(tmp_path, inputs).divided(0.1, 0.2)
    assert isinstance(data.grid.values.base, np.memmap)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 129, "val": 29, "test": 29}
    window, hours = data.splits["val"][3], (start + np.arange(3, 51) * np.timedelta64(1, "h")).astype("M8[s]")
    assert (window.times == hours).all()
    truth = np.load(tmp_path / "temp_global_hourly_val.npy")[3:51] / 10
    np.testing.assert_allclose(window.values, truth, rtol=1e-6)
    assert inputs.to_map(window).shape == (3, 48, 6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"t_train": np.zeros((9, 2)), "w_train": np.zeros((9, 2))},
            r"has arrays of t, w; input.variables has to",
        ),
        ({"temp_train": np.zeros(9)}, r"temp_train.npy has the shape \(9,\) of float64; expected \(T, stations, 1\)"),
        ({"temp_train": np.array([[1, "a"]], object)}, r"temp_train.npy cannot be read: .* arrays of Python objects"),
        ({"temp_train": np.zeros((9, 2))}, r"data_time_train.npy is missing; without times, input.calendar has to be"),
        (
            {"temp_train": np.zeros((9, 2)), "data_time_train": np.array(["2020-01-01"] * 9, "M8[s]")},
            r"data_time_train.npy is not a row of 9 times in steps of 1h",
        ),
    ],
)
def test_bad_arrays_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        load_arrays(tmp_path, SeriesInput(horizon=2, variables=("temp",)))


TS = """# a comment
@problemName Sway
@timeStamps false
@classLabel true up down
@data
1,2,?,4:5,6:up
-1.5,2e1:0,1,2:down
"""


def test_ts_files_are_read_by_their_definition(tmp_path: Path) -> None:
    (tmp_path / "a.ts").write_text(TS)
    (first, up), (second, down) = read_ts(tmp_path / "a.ts")
    assert (up, down) == ("up", "down")
    np.testing.assert_array_equal(first.values[:, 0].T, [[1, 2, math.nan, 4], [5, 6, math.nan, math.nan]])
    np.testing.assert_array_equal(second.values[:, 0].T, [[-1.5, 20, math.nan], [0, 1, 2]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n", r"a.ts has no @data line: it is not a .ts file"),
        ("@timestamps true\n@data\n", r"a.ts line 1: series with time stamps are not read"),
        ("@data\n1,2\n1,b\n", r"a.ts line 3: could not convert string to float: 'b'"),
        ("@classLabel true a\n@data\na\n", r"a.ts line 3 has a class label and no numbers"),
    ],
)
def test_bad_ts_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.ts").write_text(text)
    with pytest.raises(UserError, match=message):
        read_ts(tmp_path / "a.ts")


def test_an_archive_of_ts_files(tmp_path: Path) -> None:
    for part in ("TRAIN", "TEST"):
        (tmp_path / f"Sway_{part}.ts").write_text(TS)
    data = load_ts(tmp_path)
    assert data.classes == ("down", "up")
    assert data.splits["test"].labels.tolist() == [1, 0]
    assert data.splits["train"].fingerprint() == data.splits["test"].fingerprint()
    inputs = SeriesInput(past=12, channels=2)
    sample = MapDataset(data.splits["train"], inputs.read, inputs.to_map)[Draw(0, 1)]
    assert sample.map is not None
    assert sample.map.shape == (2, 3, 4)
    (tmp_path / "Sway_TEST.ts").write_text(TS.replace(":up", ":sideways"))
    with pytest.raises(UserError, match=r"class 'sideways' is only in the test part"):
        load_ts(tmp_path)
    (tmp_path / "Sway_TEST.ts").unlink()
    with pytest.raises(UserError, match=r"has 0 files named \*_TEST.ts, expected 1"):
        load_ts(tmp_path)


def test_series_in_class_folders_become_folded_maps(tmp_path: Path) -> None:
    for name in ("calm", "rough"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.ts").write_text("@data\n" + ",".join(str(h) for h in range(16)) + "\n")
        (tmp_path / name / "2.csv").write_text(
            "time,height\n" + "".join(f"2020-01-01T{h:02}:00,{h}\n" for h in range(16))
        )
    inputs = SeriesInput(past=16, normalise="none")
    split = load_folder(tmp_path, inputs.extensions).splits["all"]
    for item in split.items:
        map = inputs.to_map(inputs.read(item))
        assert torch.equal(map, torch.arange(16.0).view(1, 4, 4))
    stretched = SeriesInput(past=31, normalise="none").to_map(inputs.read(split.items[0]))
    torch.testing.assert_close(stretched.flatten(), torch.arange(31) / 2)
    scaled = SeriesInput(past=16, width=8).to_map(inputs.read(split.items[0]))
    assert scaled.shape == (1, 2, 8)
    torch.testing.assert_close(
        scaled.double().std(correction=0), torch.tensor(1.0, dtype=torch.float64), rtol=1e-4, atol=0
    )
    assert abs(scaled.mean()) < 1e-6


def test_files_that_cannot_be_classified_are_named(tmp_path: Path) -> None:
    inputs = SeriesInput(past=16)
    (tmp_path / "two.ts").write_text("@data\n1,2\n3,4\n")
    with pytest.raises(UserError, match=r"two.ts holds 2 series, expected one a file; data.source ts reads"):
        inputs.read(tmp_path / "two.ts")
    (tmp_path / "wide.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(UserError, match=r"a series has 2 variables, input.channels is 1"):
        inputs.to_map(inputs.read(tmp_path / "wide.csv"))
    (tmp_path / "back.csv").write_text("time,a\n2020-01-02,1\n2020-01-01,2\n")
    with pytest.raises(UserError, match=r"back.csv line 3: 2020-01-01T00:00:00 is earlier than that"):
        inputs.read(tmp_path / "back.csv")


def test_settings_that_contradict_each_other() -> None:
    for settings_, message in (
        ({"past": 1}, "input.past is 1"),
        ({"horizon": 3, "channels": 2}, "the map of a forecast has 1"),
        ({"width": 7}, "input.width is 7, which does not divide"),
        ({"targets": ("a",), "variables": ("a",), "units": ("m", "s")}, "input.units has 2 entries"),
    ):
        with pytest.raises(UserError, match=message):
            SeriesInput(**settings_)  # type: ignore[arg-type]


def test_noise_is_a_part_of_each_variables_own() -> None:
    values = np.random.default_rng(0).normal([0, 1000], [1, 50], (4000, 1, 2)).astype(np.float32)
    inputs = SeriesInput(horizon=1, past=4000, variables=("a", "b"), calendar=())
    change = SeriesAugment(noise=0.5).bind(inputs)(Window(values, np.empty(0, "M8[s]")))
    noise = change[:, :, 0].numpy().T - values[:, 0]
    np.testing.assert_allclose(noise.std(0), [0.5, 25], rtol=0.05)
