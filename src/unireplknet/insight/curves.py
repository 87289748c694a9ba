"""The course of a training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from unireplknet.insight.figure import new_figure

SCORES: dict[str, tuple[str, Callable[[float], float], tuple[float | None, float | None]]] = {
    "val/accuracy": ("val: wrong answers, %", lambda value: 100 * (1 - value), (0, None)),
    "val/map": ("val: mean average precision, %", lambda value: 100 * value, (None, 100)),
    "val/miou": ("val: mean IoU, %", lambda value: 100 * value, (None, 100)),
    "val/box_ap": ("val: box AP, %", lambda value: 100 * value, (None, 100)),
    "val/mae": ("val: mean absolute error, relative", lambda value: value, (0, None)),
}
"""By column: what the score is called, how it is drawn, and the limits of its axis."""


def draw_curves(metrics: Path, picture: Path | BinaryIO) -> None:
    """Draw losses, score and learning rate over the epochs; weights and their average, where both are scored.

    The score is the rate of errors; where a sample may have several classes, mean average precision; of masks, mean
    intersection over union; of boxes, their average precision; of forecasts, the mean absolute error.

    Args:
        metrics: The metrics.csv of a run.
        picture: The PNG file to write.
    """
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> list[float]:
        return [float(row.get(name) or "nan") for row in rows]

    epochs = column("epoch")
    figure = new_figure(11, 3.4)
    loss, score, rate = figure.subplots(1, 3)
    loss.plot(epochs, column("train/loss"), label="train (augmented, smoothed labels)", color="tab:orange")
    loss.plot(epochs, column("val/loss"), label="val", color="tab:blue")
    loss.set(title="loss", yscale="log")
    name = next((name for name in SCORES if any(row.get(name) for row in rows)), "val/accuracy")
    title, scale, limits = SCORES[name]
    score.plot(epochs, [scale(value) for value in column(name)], label="average of weights", color="tab:blue")
    if rows and "val/loss_raw" in rows[0]:
        loss.plot(epochs, column("val/loss_raw"), label="val, not averaged", color="tab:blue", alpha=0.4)
        raw = [scale(value) for value in column(f"{name}_raw")]
        score.plot(epochs, raw, label="not averaged", color="tab:blue", alpha=0.4)
        score.legend(fontsize="small")
    loss.legend(fontsize="small")
    score.set(title=title, ylim=limits)
    rate.plot(epochs, column("lr"), color="tab:green")
    rate.set(title="learning rate", ylim=(0, None))
    for axes in (loss, score, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.savefig(picture, format="png", dpi=120)
