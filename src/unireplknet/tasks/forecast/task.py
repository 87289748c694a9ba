"""Forecasts of time series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from unireplknet.errors import UserError
from unireplknet.modalities.series import SeriesAugment
from unireplknet.registry import Modality
from unireplknet.tasks.base import MIXING, Evaluation, Maker, Measured, Options, Score, Shape, Task
from unireplknet.tasks.forecast.inputs import ForecastInput

if TYPE_CHECKING:
    from unireplknet.data.split import AnySplit, DataSet
    from unireplknet.report.material import Material
    from unireplknet.tasks.forecast.network import Forecaster
    from unireplknet.tasks.forecast.score import Prediction
    from unireplknet.training.learner import Learner
    from unireplknet.training.recipe import Recipe
    from unireplknet.training.run import Run


@dataclass
class ForecastHead:
    """How forecasts are learned.

    Args:
        loss: Relative to forecasting no change: "mse", "mae", or "huber" between them.
    """

    loss: Literal["mse", "mae", "huber"] = "mse"


class Forecasting(Task["Forecaster"]):
    """What is measured next."""

    name = "forecasting"
    names_file = "stations.txt"
    names_are = "names of the stations"
    scores: ClassVar[Mapping[str, Score]] = {
        "loss": Score(higher_is_better=False),
        "mae": Score("val: mean absolute error, relative", False, lambda value: value, (0, None)),
    }
    inputs: ClassVar[Mapping[str, Modality]] = {"series": Modality(ForecastInput, SeriesAugment)}
    Head = ForecastHead
    former_settings: ClassVar[Mapping[str, str]] = {"optim.regression": "head.loss"}
    unused = MIXING | {"model.num_classes", "model.head_init_scale", "optim.loss", "optim.label_smoothing"}
    free_size = False  # windows always have the same stations and length

    def from_former(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Series with a horizon; those to classify had none."""
        if settings["modality"] not in self.inputs or not settings.get("input.horizon"):
            return None
        return {name: value for name, value in settings.items() if name != "input.channels"}

    def build(self, recipe: Recipe, names: Sequence[str]) -> Forecaster:
        """A backbone between an embedding and a head for each station."""
        from unireplknet.tasks.forecast.network import Forecaster

        backbone = recipe.model.build(recipe.input.channels, ())
        try:
            return Forecaster(backbone, len(names), **_inputs(recipe).forecaster())
        except ValueError as error:
            raise UserError(f"input: {error}") from error

    def prepare(self, model: Forecaster, recipe: Recipe, data: DataSet) -> None:
        """Take statistics from the train split, and fit the linear forecast."""
        from unireplknet.tasks.forecast.learn import fit_to

        fit_to(model, recipe, data)

    def learner(
        self, model: Forecaster, recipe: Recipe, outputs: int, steps_per_epoch: int, data: DataSet | None = None
    ) -> Learner:
        """Errors of what was measured."""
        from unireplknet.tasks.forecast.learn import ForecastLearner

        return ForecastLearner(model, recipe, steps_per_epoch)

    def evaluate(self, run: Run, split: str = "", data: str = "", options: Options | None = None) -> Evaluation:
        """Errors beside those of simple forecasts."""
        from unireplknet.tasks.forecast.score import evaluate

        split, scores = evaluate(run, split, data)
        lines = [*scores.table(), f"{split}: {scores.windows} windows, {scores.left_out} left out for gaps"]
        names = (f"evaluation-{split}.json", f"errors-{split}.png", f"forecasts-{split}.png")
        return Evaluation(split, scores.summary(), lines, [run.path / name for name in names])

    def predict(
        self, run: Run, paths: Sequence[str | Path], options: Options | None = None
    ) -> list[tuple[Prediction, str]]:
        """What follows the last rows of each file."""
        from unireplknet.tasks.forecast.score import predict

        return [(p, f"{p.file}  {p.problem or f'{p.table}, {p.picture}'}") for p in predict(run, paths)]

    def map_shape(self, recipe: Recipe, model: Forecaster) -> Shape:
        """That of a window."""
        return model.window_shape

    def measure(self, model: nn.Module, run: Run, split: AnySplit) -> dict[str, Measured]:
        """Mean absolute error of each target."""
        from unireplknet.tasks.forecast.data import WindowSplit
        from unireplknet.tasks.forecast.score import errors_of

        assert isinstance(split, WindowSplit)
        errors = errors_of(model, run, split).mae.tolist()
        return {
            f"MAE of {split.grid.variables[i]}": Measured(error, higher_is_better=False)
            for i, error in zip(split.targets, errors, strict=True)
        }

    def headline(self, material: Material) -> Sequence[tuple[str, str]]:
        """The mean errors."""
        from unireplknet.tasks.forecast.report import forecasts_in_short

        return forecasts_in_short(material)

    def sections(self) -> Sequence[Maker]:
        """Errors, and some windows."""
        from unireplknet.tasks.forecast.report import forecast_scores

        return (forecast_scores,)


def _inputs(recipe: Recipe) -> ForecastInput:
    assert isinstance(recipe.input, ForecastInput)
    return recipe.input
