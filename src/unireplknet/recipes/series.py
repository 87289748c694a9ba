"""Forecasts of time series."""

from __future__ import annotations

from unireplknet.modalities.series import SeriesAugment, SeriesInput
from unireplknet.training.recipe import Data, Model, Optim, Recipe, Trainer


def weather() -> Recipe:
    """Temperature and wind of the next 24 hours at three airports.

    Command: unireplknet train weather --data PATH
    Hardware: a CPU; two cores are enough.
    Time:
    Score:
    """
    return Recipe(
        "weather",
        model=Model(
            "unireplknet_a",
            depths=(1, 1, 2, 1),
            dims=(16, 32, 64, 128),
            kernel_sizes=((7,), (7,), (7, 7), (3,)),
            stem_stride=4,
            drop_path=0.1,
        ),
        data=Data("series", val_fraction=0.15, test_fraction=0.25),
        input=SeriesInput(
            horizon=24,
            past=48,
            station="station",
            variables=("temp", "dewp", "humid", "wind_dir", "wind_speed", "pressure"),
            targets=("temp", "wind_speed"),
            units=("°C", "m/s"),
            angles=("wind_dir",),
            calendar=("hour",),
        ),
        augment=SeriesAugment(),
        optim=Optim(epochs=10, batch_size=64, lr=1e-3, warmup_epochs=1, ema=0.99),
        trainer=Trainer(select="loss"),
    )
