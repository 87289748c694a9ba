import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import StandardScaler

from unireplknet.data.series.grid import Grid
from unireplknet.errors import UserError
from unireplknet.tasks.forecast.data import ForecastData, WindowSplit, statistics

HOUR = np.timedelta64(3600, "s")
START = np.datetime64("2020-01-31T22:00:00", "s")


def grid(length: int, gaps: float = 0.0, seed: int = 0) -> Grid:
    """Every number says where it stands: row * 100 + station * 10 + variable."""
    row, station, variable = np.indices((length, 2, 3))
    values = (row * 100 + station * 10 + variable).astype(np.float32)
    values[np.random.default_rng(seed).random(values.shape) < gaps] = np.nan
    return Grid(START, HOUR, values, ("a", "b"), ("x", "y", "z"))


def divided(length: int, past: int, horizon: int, val: float, test: float, gaps: float = 0.0) -> ForecastData:
    data = ForecastData({"all": grid(length, gaps)}, past, horizon, (2, 0), max_missing=0.5)
    return data.split(val, test)


@settings(deadline=None)
@given(
    st.integers(60, 120), st.integers(1, 9), st.integers(1, 7), st.sampled_from([0.2, 0.3]), st.sampled_from([0.2, 0.4])
)
def test_windows_are_those_of_a_loop_and_targets_stay_in_their_split(
    length: int, past: int, horizon: int, val: float, test: float
) -> None:
    data = divided(length, past, horizon, val, test)
    cut_test = length - round(test * length)
    cut_val = cut_test - round(val * cut_test)
    bounds = {"train": (0, cut_val), "val": (cut_val, cut_test), "test": (cut_test, length)}
    for name, (first, end) in bounds.items():
        split, index = data.splits[name], 0
        for t in range(length):
            if t - past < 0 or t < first or t + horizon > end:
                continue
            window = split[index]
            for i in range(past):
                assert window.values[i, 1, 2] == (t - past + i) * 100 + 12
                assert window.times[i] == START + (t - past + i) * HOUR
            for h in range(horizon):
                assert split.label(index)[h].tolist() == [[(t + h) * 100 + 10 * s + v for v in (2, 0)] for s in (0, 1)]
            index += 1
        assert index == len(split)


def test_windows_with_too_many_gaps_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = divided(200, 6, 3, 0.2, 0.25, gaps=0.45)
    for name, split in data.splits.items():
        values, kept, left_out = split.grid.values, [], 0
        for t in range(max(split.first, 6), split.end - 2):
            before = np.isnan(values[t - 6 : t]).mean()
            after = np.isnan(values[t : t + 3][..., [0, 2]]).mean()
            kept += [t] if max(before, after) <= 0.5 else []
            left_out += max(before, after) > 0.5
        assert split.origins.tolist() == kept
        assert split.left_out == left_out > 0
        assert f"{name}: {left_out} of {left_out + len(kept)} windows are left out" in caplog.text


def test_statistics_are_sklearns_of_the_training_rows() -> None:
    data = divided(150, 5, 4, 0.2, 0.25, gaps=0.2)
    mean, std, change = statistics(data.splits["train"])
    rows = data.grid.values[: data.splits["train"].end].reshape(-1, 3)
    truth = StandardScaler().fit(rows.astype(np.float64))
    torch.testing.assert_close(mean.double(), torch.from_numpy(truth.mean_), rtol=1e-6, atol=0)
    torch.testing.assert_close(std.double(), torch.from_numpy(truth.scale_), rtol=1e-6, atol=0)
    rows = data.grid.values[: data.splits["train"].end].astype(np.float64)
    assert change.tolist() == pytest.approx(np.sqrt(np.nanmean((rows[4:] - rows[:-4]) ** 2, axis=(0, 1))), rel=1e-6)


@pytest.mark.parametrize("changed", ["val", "test"])
def test_nothing_of_training_depends_on_what_comes_later(changed: str) -> None:
    before = divided(150, 5, 4, 0.2, 0.25)
    values = before.grid.values.copy()
    values[before.splits[changed].first :] = -1e6
    later = Grid(START, HOUR, values, before.grid.stations, before.grid.variables)
    after = ForecastData({"all": later}, 5, 4, (2, 0)).split(0.2, 0.25)
    one, other = before.splits["train"], after.splits["train"]
    for a, b in zip(statistics(one), statistics(other), strict=True):
        assert torch.equal(a, b)
    assert len(one) == len(other)
    for i in range(len(one)):
        assert np.array_equal(one[i].values, other[i].values)
        assert torch.equal(one.label(i), other.label(i))
    assert one.fingerprint() == other.fingerprint()
    assert before.splits[changed].fingerprint() != after.splits[changed].fingerprint()


def test_grids_that_are_divided_already_stay_so() -> None:
    data = ForecastData({"train": grid(50), "val": grid(30), "test": grid(20)}, 5, 4, (0,)).split(0.2, 0.25)
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 42, "val": 22, "test": 12}
    without = ForecastData({"train": grid(50), "test": grid(20)}, 5, 4, (0,)).split(0.2, 0.25)
    assert {name: len(split) for name, split in without.splits.items()} == {"train": 32, "val": 7, "test": 12}


def test_too_short_splits_are_named() -> None:
    with pytest.raises(UserError, match=r"the val split has 8 times and no usable window of 5 \+ 10"):
        divided(100, 5, 10, 0.1, 0.2)
    with pytest.raises(UserError, match=r"data.test_fraction is 1.2; expected a number between 0 and 1"):
        divided(100, 5, 10, 0.1, 1.2)


def test_a_mapped_file_of_tenths_is_scaled_when_it_is_read() -> None:
    tenths = np.arange(40, dtype=np.int16).reshape(20, 2, 1)
    split = WindowSplit(Grid(START, HOUR, tenths, ("a", "b"), ("x",), factor=0.1), 0, 20, np.array([5]), 3, 2, (0,))
    np.testing.assert_allclose(split[0].values[:, :, 0], [[0.4, 0.5], [0.6, 0.7], [0.8, 0.9]], rtol=1e-6)
    np.testing.assert_allclose(split.label(0)[:, :, 0], [[1.0, 1.1], [1.2, 1.3]], rtol=1e-6)


def test_too_few_rows_to_forecast_from() -> None:
    with pytest.raises(UserError, match="has 4 times, a forecast needs the last 5"):
        grid(4).last(5)
    assert np.array_equal(grid(9).last(5).values, grid(9).values[4:])
