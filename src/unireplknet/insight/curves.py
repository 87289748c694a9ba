"""The course of a training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import BinaryIO

from unireplknet.insight.figure import new_figure


def draw_curves(metrics: Path, picture: Path | BinaryIO) -> None:
    """Draw losses, error and learning rate over the epochs; weights and their average, where both are scored.

    The error is the rate of wrong answers, or of forecasts the mean absolute error.

    Args:
        metrics: The metrics.csv of a run.
        picture: The PNG file to write.
    """
    with metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> list[float]:
        return [float(row.get(name) or "nan") for row in rows]

    forecasts = any(row.get("val/mae") for row in rows)

    def mistakes(weights: str) -> list[float]:
        if forecasts:
            return column(f"val/mae{weights}")
        return [100 * (1 - a) for a in column(f"val/accuracy{weights}")]

    epochs = column("epoch")
    figure = new_figure(11, 3.4)
    loss, error, rate = figure.subplots(1, 3)
    loss.plot(epochs, column("train/loss"), label="train (augmented)", color="tab:orange")
    loss.plot(epochs, column("val/loss"), label="val", color="tab:blue")
    loss.set(title="loss", yscale="log")
    error.plot(epochs, mistakes(""), label="average of weights", color="tab:blue")
    if rows and "val/loss_raw" in rows[0]:
        loss.plot(epochs, column("val/loss_raw"), label="val, not averaged", color="tab:blue", alpha=0.4)
        error.plot(epochs, mistakes("_raw"), label="not averaged", color="tab:blue", alpha=0.4)
        error.legend(fontsize="small")
    loss.legend(fontsize="small")
    title = "val: mean absolute error, relative" if forecasts else "val: wrong answers, %"
    error.set(title=title, ylim=(0, None))
    rate.plot(epochs, column("lr"), color="tab:green")
    rate.set(title="learning rate", ylim=(0, None))
    for axes in (loss, error, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.savefig(picture, format="png", dpi=120)
