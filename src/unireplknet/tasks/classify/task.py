"""Classification: one class of each sample, or several."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from torch import nn

from unireplknet.data.split import Split
from unireplknet.registry import MODALITIES
from unireplknet.tasks.base import LOSS, Evaluation, Maker, Measured, Options, Score, Task, at_least_one

if TYPE_CHECKING:
    from unireplknet.data.split import AnySplit, DataSet
    from unireplknet.report.material import Material
    from unireplknet.tasks.classify.score import Prediction
    from unireplknet.training.learner import Learner
    from unireplknet.training.recipe import Recipe
    from unireplknet.training.run import Run


class Classification(Task[nn.Module]):
    """Which class a sample has, or which classes."""

    name = "classification"
    scores: ClassVar[Mapping[str, Score]] = {
        "accuracy": Score("val: wrong answers, %", plotted=lambda value: 100 * (1 - value), limits=(0, None)),
        "map": Score("val: mean average precision, %"),
        "loss": LOSS,
    }

    def from_former(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Settings of any modality, less what its input had for other tasks."""
        if settings["modality"] not in MODALITIES:
            return None
        kind: Any = MODALITIES[settings["modality"]].input
        known = {f"input.{field.name}" for field in fields(kind)}
        return {name: value for name, value in settings.items() if not name.startswith("input.") or name in known}

    def check_data(self, recipe: Recipe, data: DataSet) -> None:
        """See that loss and choice of the epoch suit samples with one class each, or with several."""
        from unireplknet.tasks.classify.labels import check_labels

        check_labels(recipe, data)

    def build(self, recipe: Recipe, names: Sequence[str]) -> nn.Module:
        """The network alone, which is a classifier."""
        return recipe.model.build(recipe.input.channels, names)

    def learner(
        self, model: nn.Module, recipe: Recipe, outputs: int, steps_per_epoch: int, data: DataSet | None = None
    ) -> Learner:
        """Cross-entropy and accuracy, or what goes with several classes."""
        from unireplknet.tasks.classify.learn import ClassificationLearner

        return ClassificationLearner(model, recipe, outputs, steps_per_epoch, getattr(data, "multilabel", False))

    def add_options(self, parser: ArgumentParser, command: str) -> None:
        """How many classes to name, and where to draw."""
        if command == "predict":
            parser.add_argument("--top", type=at_least_one, default=5, help="how many classes to name (default: 5)")
            parser.add_argument("--pictures", metavar="DIR", type=Path, help="draw what the network saw of each file")

    def evaluate(self, run: Run, split: str = "", data: str = "", options: Options | None = None) -> Evaluation:
        """Accuracy and confusions, or average precision where samples have several classes."""
        from unireplknet.tasks.classify.score import evaluate

        split, scores = evaluate(run, split, data)
        summary = scores.summary(run.classes)
        width = max(len(name) for name in run.classes)
        several = "map" in summary
        lines = [
            f"  {name:{width}}  {_percent(row['average_precision' if several else 'accuracy'])}  of {row['samples']}"
            for name, row in summary["per_class"].items()
        ]
        if several:
            lines.append(f"{split}: mean average precision {summary['map']:.2%} of {summary['samples']} samples")
        else:
            accuracies = f"top-1 {summary['top1']:.2%}, mean over classes {summary['mean_class_accuracy']:.2%}"
            lines.append(f"{split}: {accuracies}, top-5 {summary['top5']:.2%} of {summary['samples']} samples")
        files = [run.path / f"evaluation-{split}.json", *([] if several else [run.path / f"confusion-{split}.png"])]
        return Evaluation(split, summary, lines, files)

    def predict(
        self, run: Run, paths: Sequence[str | Path], options: Options | None = None
    ) -> list[tuple[Prediction, str]]:
        """The most likely classes of each file."""
        from unireplknet.tasks.classify.score import predict

        return [(p, f"{p.file}  {_classes(p)}") for p in predict(run, paths, **(options or {}))]

    def activation(self, recipe: Recipe) -> str:
        """That of the loss."""
        return "sigmoid" if recipe.optim.loss == "bce" else "softmax"

    def measure(self, model: nn.Module, run: Run, split: AnySplit) -> dict[str, Measured]:
        """Accuracy or average precision."""
        from unireplknet.tasks.classify.score import score
        from unireplknet.training.loader import build_loader

        loader = build_loader(run.recipe, split, views=True)
        summary = score(model, loader, run.recipe.optim.loss).summary(run.classes)
        name, key = ("mean average precision", "map") if "map" in summary else ("top-1", "top1")
        return {name: Measured(summary[key])}

    def evaluation(self, material: Material) -> dict[str, Any]:
        """Scores of the network as it is: the sections need what it says of each sample."""
        from unireplknet.tasks.classify.report import scores_of

        return {"split": material.split} | material.once(scores_of).summary(material.run.classes)

    def samples_of_each(self, split: AnySplit, outputs: int) -> np.ndarray | None:
        """Samples of each class."""
        assert isinstance(split, Split)
        labels = split.labels
        return labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=outputs)

    def headline(self, material: Material) -> Sequence[tuple[str, str]]:
        """The main score."""
        from unireplknet.tasks.classify.report import classes_in_short

        return classes_in_short(material)

    def sections(self) -> Sequence[Maker]:
        """Scores, confusions, mistakes, and what the stages make of a sample."""
        from unireplknet.tasks.classify.report import class_scores, confusion, mistakes, stages

        return class_scores, confusion, mistakes, stages


def _percent(value: float | None) -> str:
    return "   -   " if value is None else f"{value:7.2%}"


def _classes(prediction: Prediction) -> str:
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    return "  ".join(f"{name} {probability:.1%}" for name, probability in pairs) or "unreadable"
