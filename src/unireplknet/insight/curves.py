"""The course of a training."""

from __future__ import annotations

import csv
from pathlib import Path

from unireplknet.insight.figure import new_figure


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw losses, error rate (of forecasts: mean absolute error) and learning rate over the epochs.

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
    loss, error, rate = figure.subplots(1, 3)
    loss.plot(epochs, column("train/loss"), label="train (augmented)", color="tab:orange")
    loss.plot(epochs, column("val/loss"), label="val", color="tab:blue")
    loss.set(title="loss", yscale="log")
    loss.legend(fontsize="small")
    if any(row.get("val/mae") for row in rows):
        error.plot(epochs, column("val/mae"), color="tab:blue")
        error.set(title="val: mean absolute error, relative", ylim=(0, None))
    else:
        error.plot(epochs, [100 * (1 - a) for a in column("val/accuracy")], color="tab:blue")
        error.set(title="val: wrong answers, %", ylim=(0, None))
    rate.plot(epochs, column("lr"), color="tab:green")
    rate.set(title="learning rate", ylim=(0, None))
    for axes in (loss, error, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.savefig(picture, dpi=120)
