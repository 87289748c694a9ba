"""How a network learns to forecast."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from unireplknet.data.split import DataSet
from unireplknet.tasks.forecast.baselines import table, without_gaps
from unireplknet.tasks.forecast.data import ForecastData, statistics
from unireplknet.tasks.forecast.network import Forecaster, masked_loss
from unireplknet.training.learner import Learner
from unireplknet.training.recipe import Recipe


class ForecastLearner(Learner):
    """Learns to foretell numbers.

    Args:
        model: A :class:`~unireplknet.tasks.forecast.network.Forecaster`, from windows to forecasts in physical units.
        recipe: Decides loss, optimiser, schedule and memory layout.
        steps_per_epoch: Optimiser steps in an epoch, for the schedule.
    """

    model: Forecaster

    def __init__(self, model: Forecaster, recipe: Recipe, steps_per_epoch: int) -> None:
        scores = nn.ModuleDict({"loss": MeanMetric("error"), "mae": MeanMetric("error")})
        super().__init__(model, recipe, steps_per_epoch, scores)
        self.kind = recipe.head.loss

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """That of a window."""
        return self.model.window_shape

    def blank_labels(self, count: int, shape: tuple[int, int, int]) -> Tensor:
        """Forecasts of zero."""
        return torch.zeros(count, *self.model.forecast_shape)

    def objective(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Mean loss of what was measured, in units of the change over the horizon."""
        loss, count = masked_loss(self(maps), labels, self.model.unit, self.kind)
        return loss / count.clamp_min(1)

    def count(self, outputs: Tensor, labels: Tensor, scores: dict[str, Metric]) -> None:
        """Count forecasts, in units of the change over the horizon."""
        for name, kind in (("loss", self.kind), ("mae", "mae")):
            loss, count = masked_loss(outputs, labels, self.model.unit, kind)
            scores[name].update(loss / count.clamp_min(1), count)


def fit_to(model: Forecaster, recipe: Recipe, data: DataSet) -> None:
    """Give a network the statistics of the train split, and fit its linear part, in place."""
    assert isinstance(data, ForecastData)
    model.set_statistics(*statistics(data.splits["train"]), data.grid.coordinates)
    tables = [table(data.splits[name], recipe.input.to_map) for name in ("train", "val")]
    complete = [torch.from_numpy(part) for x, _, y in tables for part in (x, without_gaps(x, y, model.targets))]
    model.fit_linear(*complete)
