"""Using a trained run: scores on a split, and predictions for files."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from unireplknet.data.dataset import Draw, MapDataset
from unireplknet.data.files import distinct_stems, find_inputs
from unireplknet.data.split import LabeledData, Split
from unireplknet.errors import UserError, shorten
from unireplknet.modalities.panels import panels
from unireplknet.ops import constant_weights
from unireplknet.tasks.classify.labels import average_precision, class_probabilities
from unireplknet.tasks.scoring import best_device, choose_split, write_evaluation
from unireplknet.training.loader import build_loader
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run

if TYPE_CHECKING:
    from unireplknet.tasks.classify.gallery import Shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """What a network said about samples.

    Attributes:
        logits: Shape (N, classes); those of the mean probabilities where samples have several views.
        labels: True classes, shape (N,), or a 1 for each, shape (N, classes).
        indices: Positions in the split, shape (N,).
        unreadable: One line for each sample that could not be read; they are not among the N.
    """

    logits: Tensor
    labels: Tensor
    indices: Tensor
    unreadable: list[str]

    def summary(self, classes: Sequence[str]) -> dict[str, Any]:
        """Accuracy as plain numbers: top-1, top-5, of each class, and the mean over the classes that have samples.

        Of point clouds, top-1 is called OA and the mean over classes mAcc. Where samples have several classes it is
        average precision.
        """
        if self.labels.ndim == 2:
            return self._precision(classes)
        count = len(classes)
        matrix = self.confusion(count)
        totals = matrix.sum(1)
        right = matrix.diagonal()

        def top(k: int) -> float:
            return multiclass_accuracy(self.logits, self.labels, count, average="micro", top_k=k).item()

        return {
            "samples": len(self.labels),
            "top1": top(1),
            "top5": top(min(5, count)),
            "mean_class_accuracy": float((right[totals > 0] / totals[totals > 0]).mean()),
            "per_class": {
                name: {
                    "accuracy": int(right[i]) / int(totals[i]) if totals[i] else None,
                    "samples": int(totals[i]),
                }
                for i, name in enumerate(classes)
            },
            "unreadable": self.unreadable,
        }

    def _precision(self, classes: Sequence[str]) -> dict[str, Any]:
        totals = self.labels.long().sum(0)
        each = average_precision(class_probabilities(self.logits, "bce"), self.labels)
        return {
            "samples": len(self.labels),
            "map": each.nanmean().item(),
            "per_class": {
                name: {
                    "average_precision": each[i].item() if totals[i] else None,
                    "samples": int(totals[i]),
                }
                for i, name in enumerate(classes)
            },
            "unreadable": self.unreadable,
        }

    def confusion(self, count: int) -> np.ndarray:
        """How often a sample of each class (row) was taken for each class (column)."""
        return multiclass_confusion_matrix(self.logits, self.labels, count).numpy()


@dataclass(frozen=True)
class Prediction:
    """The most likely classes of one file.

    Attributes:
        file: The file.
        classes: Class names, most likely first; empty where the file was unreadable.
        probabilities: Their probabilities.
        problem: Why the file was unreadable.
        picture: What the network saw of it, where that was asked for.
    """

    file: str
    classes: list[str]
    probabilities: list[float]
    problem: str = ""
    picture: str = ""


def score(model: nn.Module, loader: DataLoader[Any], kind: str = "cross_entropy") -> Scores:
    """Run a network over a loader; the results are on the CPU, in float32.

    Args:
        model: From maps to logits.
        loader: The samples, with one view each or several.
        kind: The loss that it learnt by: what its logits mean.

    Raises:
        UserError: None of the samples could be read.
    """
    device = best_device()
    model = model.to(device).eval()
    logits, labels, indices, unreadable = [], [], [], []
    with torch.inference_mode(), constant_weights():
        for batch in loader:
            unreadable += batch.problems
            if len(batch.labels):
                logits.append(_logits(model, batch.maps.to(device), kind).cpu())
                labels.append(batch.labels)
                indices.append(batch.indices)
    for number, problem in enumerate(unreadable, 1):
        logger.warning("skipped unreadable sample %d: %s", number, problem)
    if not logits:
        raise UserError(f"none of the samples could be read; the first: {shorten(unreadable, 1)}")
    return Scores(torch.cat(logits), torch.cat(labels), torch.cat(indices), unreadable)


def _logits(model: nn.Module, maps: Tensor, kind: str) -> Tensor:
    """Logits of maps (B, C, H, W); of several views (B, V, C, H, W) those of the mean probabilities."""
    if maps.ndim == 4:
        return model(maps).float()
    views = torch.stack([model(view).float() for view in maps.unbind(1)])  # one by one, to need no more memory
    if kind == "bce":  # each class by itself: log of p over 1 - p, without leaving the logarithms
        return F.logsigmoid(views).logsumexp(0) - F.logsigmoid(-views).logsumexp(0)
    return views.log_softmax(2).logsumexp(0) - math.log(len(views))


def evaluate(run: Run, name: str = "", path: str = "") -> tuple[str, Scores]:
    """Score the best epoch of a run on one of its splits, and write the outcome into the run folder.

    Args:
        run: The run.
        name: "train", "val" or "test"; by default test, or val where the data have no test split.
        path: Where the data lie now, if they have moved.

    Returns:
        The name of the split and the scores. ``evaluation-NAME.json`` and ``confusion-NAME.png`` hold them, and
        ``predictions-NAME.png`` shows the samples of which the network was least certain; there are no such pictures
        where samples have several classes.

    Raises:
        UserError: There is no such split.
    """
    from unireplknet.tasks.classify.confusion import draw_confusion

    data = run.load_data(path)
    name = choose_split(run, data, name)
    split = data.splits[name]
    scores = score_split(run, split)
    write_evaluation(run, name, scores.summary(run.classes))
    if scores.labels.ndim == 2:
        return name, scores
    draw_confusion(scores.confusion(len(run.classes)), run.classes, run.path / f"confusion-{name}.png")
    _draw_doubtful(run, split, scores, run.path / f"predictions-{name}.png")
    return name, scores


def score_split(run: Run, split: Split) -> Scores:
    """What the best epoch of a run that classifies says of samples, from all their views; nothing is written."""
    return score(run.load_model(), build_loader(run.recipe, split, views=True), run.recipe.optim.loss)


def show_samples(run: Run, split: Split, indices: Tensor, said: Tensor, probabilities: Tensor) -> list[Shown]:
    """Samples of a split as the network saw them: by the one view that training validates by.

    Args:
        run: The run.
        split: The split.
        indices: Positions of readable samples, shape (N,).
        said: What the network takes them for, shape (N,).
        probabilities: Theirs, shape (N,).
    """
    from unireplknet.tasks.classify.gallery import Shown, thumbnail

    recipe, classes = run.recipe, run.classes
    dataset = build_loader(recipe, split).dataset
    shown = []
    for index, guess, probability in zip(indices.tolist(), said.tolist(), probabilities.tolist(), strict=True):
        picture = thumbnail(panels(recipe.input, dataset[Draw(0, index)].map))
        truth = classes[int(split.labels[index])]
        shown.append(Shown(split.name(index), picture, truth, classes[guess], probability))
    return shown


def show_mistakes(run: Run, split: Split, scores: Scores, count: int) -> list[Shown]:
    """The samples that were taken for another class, those first of which the network was surest."""
    probabilities, said = class_probabilities(scores.logits, run.recipe.optim.loss).max(1)
    wrong = (said != scores.labels).nonzero()[:, 0]
    worst = wrong[probabilities[wrong].argsort(descending=True, stable=True)][:count]
    return show_samples(run, split, scores.indices[worst], said[worst], probabilities[worst])


def _draw_doubtful(run: Run, split: Split, scores: Scores, picture: Path, count: int = 24) -> None:
    """Draw the samples whose true class got the lowest probability, the worst first."""
    from unireplknet.tasks.classify.gallery import draw_gallery

    probabilities = scores.logits.softmax(1)
    worst = probabilities.gather(1, scores.labels[:, None])[:, 0].argsort()[:count]
    highest, said = probabilities[worst].max(1)
    samples = show_samples(run, split, scores.indices[worst], said, highest)
    draw_gallery(samples, "predicted class and its probability; red where wrong", picture)


def predict(run: Run, paths: Sequence[str | Path], top: int = 5, pictures: Path | None = None) -> list[Prediction]:
    """Classify files.

    Args:
        run: The run.
        paths: Files, or folders to search for files of the run's modality.
        top: How many classes to name for each.
        pictures: A folder for ``NAME-seen.png``, one a file: the map that the network saw and what it said.

    Returns:
        One prediction a file, in the order given.

    Raises:
        UserError: A path does not exist, or no file was found or readable.
    """
    recipe = run.recipe
    files = find_inputs(paths, recipe.input.extensions)
    unlabelled = Split(files, np.zeros(len(files), np.int64))
    scores = score(run.load_model(), build_loader(recipe, unlabelled, views=True), recipe.optim.loss)
    loader = build_loader(recipe, unlabelled)
    top = min(top, len(run.classes))
    probabilities, order = class_probabilities(scores.logits, recipe.optim.loss).topk(top)
    said = {
        index: Prediction(str(files[index]), [run.classes[c] for c in classes], values)
        for index, classes, values in zip(scores.indices.tolist(), order.tolist(), probabilities.tolist(), strict=True)
    }
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        stems = distinct_stems(files)
        said = {i: _draw(recipe, loader, i, made, pictures / f"{stems[i]}-seen.png") for i, made in said.items()}
    problems = iter(scores.unreadable)
    return [said.get(i) or Prediction(str(file), [], [], next(problems)) for i, file in enumerate(files)]


def _draw(recipe: Recipe, loader: DataLoader[Any], index: int, said: Prediction, picture: Path) -> Prediction:
    from unireplknet.insight.seen import draw_seen

    assert isinstance(loader.dataset, MapDataset)
    sample = loader.dataset[Draw(0, index)].map
    assert sample is not None  # it was readable a moment ago
    draw_seen(panels(recipe.input, sample), Path(said.file).name, said.classes, said.probabilities, picture)
    return replace(said, picture=str(picture))


def nearest_neighbour(run: Run, data: LabeledData) -> float:
    """Accuracy of a 1-nearest-neighbour classifier on the test split: the floor that a network has to beat.

    It compares maps as they are, and knows the train and val samples.
    """
    from sklearn.neighbors import KNeighborsClassifier

    return fit_on_maps(KNeighborsClassifier(1), run, data).score(*maps_of(run, data.splits["test"]))


def fit_on_maps(classifier: Any, run: Run, data: LabeledData) -> Any:
    """Fit a classifier of scikit-learn on the maps of the train and val samples, and return it."""
    known = [maps_of(run, data.splits[name]) for name in ("train", "val")]
    return classifier.fit(*(np.concatenate(parts) for parts in zip(*known, strict=True)))


def maps_of(run: Run, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """The maps of a split as rows of numbers, shape (N, channels * H * W), and their labels, shape (N,)."""
    batches = list(build_loader(run.recipe, split))
    return torch.cat([b.maps for b in batches]).flatten(1).numpy(), torch.cat([b.labels for b in batches]).numpy()
