"""One number a sample."""

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from unireplknet.data.files import find_inputs
from unireplknet.data.split import Split
from unireplknet.report.document import Facts, Section
from unireplknet.report.material import Material
from unireplknet.tasks.base import Evaluation, Maker, Measured, Options, Score, Task
from unireplknet.tasks.scoring import choose_split, write_evaluation
from unireplknet.training.learner import Learner
from unireplknet.training.loader import build_loader
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run


class RegressionLearner(Learner):
    """Learns by the squared error."""

    def __init__(self, model: nn.Module, recipe: Recipe, steps_per_epoch: int) -> None:
        scores = {"mae": MeanMetric("error"), "loss": MeanMetric("error")}
        super().__init__(model, recipe, steps_per_epoch, nn.ModuleDict(scores))

    @property
    def map_shape(self) -> tuple[int, int, int]:
        return self.recipe.input.shape

    def blank_labels(self, count: int, shape: tuple[int, int, int]) -> Tensor:
        return torch.zeros(count)

    def objective(self, maps: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.mse_loss(self(maps)[:, 0], labels)

    def count(self, outputs: Tensor, labels: Tensor, scores: dict[str, Metric]) -> None:
        error = outputs[:, 0] - labels
        scores["mae"].update(error.abs())
        scores["loss"].update(error.square())


@dataclass(frozen=True)
class Number:
    """The number of a file."""

    file: str
    value: float | None
    problem: str = ""


class Regression(Task[nn.Module]):
    """A number of each sample."""

    name = "regression"
    names_file = "quantities.txt"
    names_are = "names of the quantities"
    scores = {"mae": Score("val: mean absolute error", False, lambda value: value, (0, None)), "loss": Score("", False)}  # noqa: RUF012

    def build(self, recipe: Recipe, names: Sequence[str]) -> nn.Module:
        return recipe.model.build(recipe.input.channels, names)

    def learner(
        self, model: nn.Module, recipe: Recipe, outputs: int, steps_per_epoch: int, data: Any = None
    ) -> Learner:
        return RegressionLearner(model, recipe, steps_per_epoch)

    def add_options(self, parser: ArgumentParser, command: str) -> None:
        if command == "predict":
            parser.add_argument("--digits", type=int, default=2, help="digits after the point")

    def evaluate(self, run: Run, split: str = "", data: str = "", options: Options | None = None) -> Evaluation:
        found = run.load_data(data)
        split = choose_split(run, found, split)
        error = self.measure(run.load_model(), run, found.splits[split])["MAE"].value
        summary = {"mae": error, "samples": len(found.splits[split])}
        return Evaluation(split, summary, [f"{split}: MAE {error:.3f}"], [write_evaluation(run, split, summary)])

    def predict(
        self, run: Run, paths: Sequence[str | Path], options: Options | None = None
    ) -> list[tuple[Number, str]]:
        files = find_inputs(paths, run.recipe.input.extensions)
        model, digits = run.load_model(), (options or {}).get("digits", 2)
        values: dict[int, float] = {}
        with torch.inference_mode():
            for batch in build_loader(run.recipe, Split(files, np.zeros(len(files), np.float32))):
                if len(batch.indices):
                    values |= dict(zip(batch.indices.tolist(), model(batch.maps)[:, 0].tolist(), strict=True))
        found = [Number(str(file), values.get(i), "" if i in values else "unreadable") for i, file in enumerate(files)]
        return [(n, f"{n.file}  {n.problem or f'{n.value:.{digits}f}'}") for n in found]

    def measure(self, model: nn.Module, run: Run, split: Any) -> dict[str, Measured]:
        errors: list[float] = []
        with torch.inference_mode():
            for batch in build_loader(run.recipe, split):
                errors += (model(batch.maps)[:, 0] - batch.labels).abs().tolist()
        return {"MAE": Measured(float(np.mean(errors)), higher_is_better=False)}

    def headline(self, material: Material) -> Sequence[tuple[str, str]]:
        return [("MAE", f"{material.evaluation['mae']:.3f}")]

    def sections(self) -> Sequence[Maker]:
        return (numbers,)


def numbers(material: Material) -> Section:
    found: Mapping[str, Any] = material.evaluation
    return Section("numbers", "Numbers", [Facts([("Mean absolute error", f"{found['mae']:.3f}")])])
