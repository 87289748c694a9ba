"""What is to be said of a sample, one class or several at once, and the losses that go with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MultilabelAveragePrecision
from torchmetrics.functional.classification import multilabel_average_precision
from torchmetrics.utilities import dim_zero_cat

from unireplknet.data.split import DataSet
from unireplknet.errors import UserError
from unireplknet.training.recipe import Recipe


def check_labels(recipe: Recipe, data: DataSet) -> None:
    """See that loss and choice of the epoch suit samples with one class each, or with several.

    Raises:
        UserError: They do not.
    """
    several = getattr(data, "multilabel", False)
    loss, select = recipe.optim.loss, recipe.trainer.select
    if several and (loss != "bce" or select == "accuracy"):
        raise UserError(
            f"the samples have several classes each, which optim.loss {loss} with trainer.select {select} cannot learn;"
            " add --optim.loss bce --trainer.select map"
        )
    if select == "map" and not several:
        raise UserError("trainer.select is map, but the samples have one class each; set it to accuracy or loss")


def class_targets(labels: Tensor, classes: int, kind: str) -> Tensor:
    """What a loss compares with.

    Args:
        labels: Class indices, shape (B,), or zeros and ones, shape (B, classes).
        classes: Number of classes.
        kind: "cross_entropy", or "bce": each class is a question of its own.

    Returns:
        The labels, of bce always as numbers from 0 to 1 of shape (B, classes).
    """
    return F.one_hot(labels, classes).float() if kind == "bce" and labels.ndim == 1 else labels


def class_loss(logits: Tensor, targets: Tensor, kind: str, smoothing: float = 0.0) -> Tensor:
    """The mean loss of a batch.

    Args:
        logits: Shape (B, classes).
        targets: Those of :func:`class_targets`, mixed or not.
        kind: The same.
        smoothing: Part of each target that is spread over all classes.
    """
    if targets.ndim == 2:
        targets = targets.to(logits.dtype)
    if kind == "cross_entropy":
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)
    return F.binary_cross_entropy_with_logits(logits, targets * (1 - smoothing) + smoothing / logits.shape[1])


def class_probabilities(logits: Tensor, kind: str) -> Tensor:
    """What the logits (B, classes) of a network that learnt by :func:`class_loss` say, from 0 to 1."""
    return logits.sigmoid() if kind == "bce" else logits.softmax(1)


def average_precision(probabilities: Tensor, labels: Tensor) -> Tensor:
    """How well each class ranks the samples that have it before the others.

    Args:
        probabilities: Shape (N, classes).
        labels: Zeros and ones, shape (N, classes).

    Returns:
        Average precision of each class, shape (classes,); not a number where no sample has the class.
    """
    known = labels.sum(0) > 0
    each = torch.full_like(probabilities[0], torch.nan)
    count = int(known.sum())
    if count:
        average = multilabel_average_precision(probabilities[:, known], labels[:, known].long(), count, average="none")
        each[known] = average.to(each.dtype)
    return each


class MeanAveragePrecision(MultilabelAveragePrecision):
    """The mean of :func:`average_precision` over the classes that samples have; over all batches and processes."""

    def compute(self) -> Tensor:  # type: ignore[override]
        """The mean."""
        return average_precision(dim_zero_cat(self.preds), dim_zero_cat(self.target)).nanmean()
