"""Time series: the published forecasts, and your own series to classify.

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
from unireplknet.recipes.network import small_network
from unireplknet.tasks.forecast.inputs import ForecastInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


def series() -> Recipe:
    """Your own time series to classify: one folder a class, one CSV or .ts file a series.

    Command: unireplknet train series --data PATH
    Hardware: a CPU; two cores are enough.
    Time: depends on the number of series.
    Score: depends on the series. Not run on a named data set.
    """
    return Recipe(
        "series",
        model=small_network((32, 64, 128, 256), stem_stride=1, drop_path=0.0),
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


ALL = (series, global_temp, global_wind)


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
