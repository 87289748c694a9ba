from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.runs import series_input, write_weather
from unireplknet.data.dataset import Draw, MapDataset
from unireplknet.data.series.grid import Window
from unireplknet.data.sources.folder import load_folder
from unireplknet.errors import UserError
from unireplknet.modalities.series import SeriesAugment, SeriesInput
from unireplknet.tasks.forecast.inputs import ForecastInput, load_series


def test_the_map_of_a_window_is_its_numbers_and_the_calendar(tmp_path: Path) -> None:
    inputs = series_input(calendar=("hour", "weekday", "year"))
    data = load_series(write_weather(tmp_path), inputs).split(0.2, 0.25)
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
    data = load_series(write_weather(tmp_path), inputs).split(0.2, 0.25)
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
    for kind, settings_, message in (
        (SeriesInput, {"past": 1}, "input.past is 1"),
        (SeriesInput, {"width": 7}, "input.width is 7, which does not divide the 48 numbers"),
        (ForecastInput, {"horizon": 0}, "input.horizon 0; expected at least 2 and 1"),
        (ForecastInput, {"width": 7}, "input.width is 7, which does not divide the 2304 numbers"),
        (ForecastInput, {"targets": ("a",), "variables": ("a",), "units": ("m", "s")}, "input.units has 2 entries"),
    ):
        with pytest.raises(UserError, match=message):
            kind(**settings_)


def test_noise_is_a_part_of_each_variables_own() -> None:
    values = np.random.default_rng(0).normal([0, 1000], [1, 50], (4000, 1, 2)).astype(np.float32)
    inputs = ForecastInput(horizon=1, past=4000, variables=("a", "b"), calendar=())
    change = SeriesAugment(noise=0.5).bind(inputs)(Window(values, np.empty(0, "M8[s]")))
    noise = change[:, :, 0].numpy().T - values[:, 0]
    np.testing.assert_allclose(noise.std(0), [0.5, 25], rtol=0.05)
