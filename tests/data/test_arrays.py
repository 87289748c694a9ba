from pathlib import Path

import numpy as np
import pytest

from unireplknet.data.series.arrays import load_arrays
from unireplknet.errors import UserError
from unireplknet.tasks.forecast.inputs import ForecastInput, load_series


def test_the_arrays_of_global_temperature(tmp_path: Path) -> None:
    rng, start = np.random.default_rng(0), np.datetime64("2019-01-01T00:00")
    for split, length in (("train", 200), ("val", 100), ("test", 100)):
        tenths = rng.integers(-300, 300, (length, 6, 1)).astype(np.int16)
        np.save(tmp_path / f"temp_global_hourly_{split}.npy", tenths)
        times = start + np.arange(length) * np.timedelta64(1, "h")
        np.save(tmp_path / f"data_time_{split}.npy", times.astype(str) if split == "val" else times)
    inputs = ForecastInput(horizon=24, variables=("temp_global_hourly",), factor=0.1, stations_per_map=3)
    data = load_series(tmp_path, inputs).split(0.1, 0.2)
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
        load_arrays(tmp_path, ["temp"])
