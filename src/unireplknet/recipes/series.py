"""Forecasts of time series: the published trainings, and one that runs on a laptop.

The published ones follow the appendix and the authors' scripts for Global Temperature and Global Wind Speed (3,850
stations of the NCEI, hourly): 350 groups of 11 stations, 48 hours to see, 24 to foretell, D' = 768, so that a map has
192 x 192 numbers; UniRepLKNet-S with 11 x 11 kernels in the last stage, as their code has it. A few things differ.
Their decoder is Corrformer's, one layer of attention over the groups; here the features go to a linear head. Their
learning rate halves with each epoch from the third on; here it follows a cosine. Their normalisation has a learnable
scale, which the embedding has here. Their dropout follows the embedding; here it precedes it. Their early stopping is
the choice of the epoch here.
"""

from __future__ import annotations

from unireplknet.modalities.series import SeriesAugment, SeriesInput
from unireplknet.tasks.forecast.inputs import ForecastInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer

SMALL = ((7,), (7,), (7, 7), (3,))


def weather() -> Recipe:
    """Temperature and wind of the next 24 hours at three airports.

    Command: unireplknet fetch weather && unireplknet train weather --data data/weather
    Hardware: a CPU; two cores are enough.
    Time: a minute, and a minute for the baselines.
    Score: temperature MSE 8.82, MAE 2.11 (°C), wind speed MSE 4.62, MAE 1.65 (m/s) on the last quarter of the year,
        mean of seeds 0, 1, 2 (benchmarks/results/series_runs.json); ridge 9.07, 2.14, 4.72, 1.67. Run.
    """
    return Recipe(
        "weather",
        model=Model(
            "unireplknet_a",
            depths=(1, 1, 2, 1),
            dims=(16, 16, 24, 24),
            kernel_sizes=SMALL,
            drop_path=0.2,
            drop=0.5,
        ),
        data=Data("series", val_fraction=0.15, test_fraction=0.25),
        input=ForecastInput(
            horizon=24,
            past=48,
            station="station",
            variables=("temp", "dewp", "humid", "wind_dir", "wind_speed", "pressure"),
            targets=("temp", "wind_speed"),
            units=("°C", "m/s"),
            angles=("wind_dir",),
            calendar=("hour",),
            normalise="none",
            embed_dim=24,
            stations_per_map=1,
            drop=0.5,
        ),
        augment=SeriesAugment(),
        optim=Optim(epochs=5, batch_size=128, lr=1e-3, warmup_epochs=1, ema=0.95),
        trainer=Trainer(select="loss"),
    )


def series() -> Recipe:
    """Your own time series to classify: one folder a class, one CSV or .ts file a series.

    Command: unireplknet train series --data PATH
    Hardware: a CPU; two cores are enough.
    Time: depends on the number of series.
    Score: depends on the series. Not run on a named data set.
    """
    return Recipe(
        "series",
        model=Model("unireplknet_a", stem_stride=1, depths=(1, 1, 2, 1), dims=(32, 64, 128, 256), kernel_sizes=SMALL),
        data=Data("folder"),
        input=SeriesInput(past=256),
        augment=SeriesAugment(noise=0.1, scale=0.1),
        optim=Optim(epochs=60, batch_size=32, lr=2e-3, ema=0.99),
        trainer=Trainer(select="loss"),
    )


def global_temp() -> Recipe:
    """Temperature of the next 24 hours at 3,850 stations, as published.

    Command: unireplknet train global_temp --data PATH
    Hardware: a GPU of 24 GB.
    Time: 18 h on a GPU of 24 GB, by the authors' README.
    Score: MSE 7.602, MAE 1.832 (journal version, table 12). Not run.
    """
    return _published("global_temp", "temp_global_hourly", "°C")


def global_wind() -> Recipe:
    """Wind speed of the next 24 hours at 3,850 stations, as published.

    Command: unireplknet train global_wind --data PATH
    Hardware: a GPU of 24 GB.
    Time: 18 h on a GPU of 24 GB, by the authors' README.
    Score: MSE 3.865, MAE 1.301 (journal version, table 12). Not run.
    """
    return _published("global_wind", "wind_global_hourly", "m/s")


ALL = (weather, series, global_temp, global_wind)


def _published(name: str, variable: str, unit: str) -> Recipe:
    return Recipe(
        name,
        model=Model(
            "unireplknet_s",
            kernel_sizes=((3,) * 3, (13,) * 3, (13, 3, 3) * 9, (11,) * 3),
            drop_path=0.4,
        ),
        data=Data("series", workers=4),
        input=ForecastInput(
            horizon=24,
            past=48,
            variables=(variable,),
            targets=(variable,),
            units=(unit,),
            calendar=("hour", "weekday", "year"),
            factor=0.1,
            normalise="mean",
            embed_dim=768,
            stations_per_map=11,
            linear=False,
            drop=0.05,
        ),
        augment=SeriesAugment(),
        optim=Optim(epochs=10, batch_size=1, lr=1e-4, warmup_epochs=0, weight_decay=0.0),
        trainer=Trainer(select="loss", seed=2021, checkpoint_activations=True),
    )
