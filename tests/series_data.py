"""A small table of two stations and a recipe that learns to forecast it in a few seconds."""

from pathlib import Path

import numpy as np
import pandas as pd

from unireplknet.modalities.series import SeriesAugment
from unireplknet.tasks.forecast.inputs import ForecastInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


def weather_frame(hours: int = 400) -> pd.DataFrame:
    """A daily swing of temperature and wind at two stations, with noise and gaps."""
    rng = np.random.default_rng(0)
    times = pd.date_range("2020-03-01T00:00", periods=hours, freq="h")
    frames = []
    for number, station in enumerate(("north", "south")):
        swing = np.sin(2 * np.pi * (times.hour + number) / 24)
        frames.append(
            pd.DataFrame(
                {
                    "time": times.strftime("%Y-%m-%dT%H:%M"),
                    "station": station,
                    "temp": 10 + 5 * swing + rng.normal(0, 0.3, hours),
                    "wind": 3 - swing + rng.normal(0, 0.3, hours),
                    "from": rng.integers(0, 36, hours) * 10.0,
                }
            )
        )
    frame = pd.concat(frames, ignore_index=True)
    frame.loc[rng.random(len(frame)) < 0.05, "temp"] = np.nan
    return frame[rng.random(len(frame)) > 0.02].reset_index(drop=True)


def write_weather(folder: Path, hours: int = 400) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    weather_frame(hours).to_csv(folder / "weather.csv", index=False)
    (folder / "stations.csv").write_text("station,latitude,longitude\nnorth,60,5\nsouth,40,5\n")
    return folder


def series_input(**changes: object) -> ForecastInput:
    settings = {
        "horizon": 6,
        "past": 24,
        "station": "station",
        "variables": ("temp", "wind", "from"),
        "targets": ("temp", "wind"),
        "units": ("°C", "m/s"),
        "angles": ("from",),
        "embed_dim": 6,
    }
    return ForecastInput(**(settings | changes))  # type: ignore[arg-type]


def forecast_recipe(path: Path, epochs: int = 3) -> Recipe:
    return Recipe(
        "breeze",
        model=Model("test_unireplknet", stem_stride=1, dims=(8, 8, 8, 8), drop_path=0.2),
        data=Data("series", str(path), val_fraction=0.2),
        input=series_input(drop=0.1),
        augment=SeriesAugment(noise=0.1, hide=0.05),
        optim=Optim(epochs=epochs, batch_size=64, lr=1e-2, warmup_epochs=1, ema=0.5),
        trainer=Trainer(select="loss", progress=False, accelerator="cpu", save_minutes=0.0),
    )
