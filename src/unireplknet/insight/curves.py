"""The course of a training."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import BinaryIO

from unireplknet.insight.figure import new_figure


def draw_curves(metrics: Path, picture: Path | BinaryIO) -> None:
    """Draw losses, score and learning rate over the epochs; weights and their average, where both are scored.

    The score is the rate of errors; where a sample may have several classes, mean average precision.

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
    several = any(row.get("val/map") for row in rows)
    name, percent = ("map", lambda a: 100 * a) if several else ("accuracy", lambda a: 100 * (1 - a))
    score.plot(epochs, [percent(a) for a in column(f"val/{name}")], label="average of weights", color="tab:blue")
    if rows and "val/loss_raw" in rows[0]:
        loss.plot(epochs, column("val/loss_raw"), label="val, not averaged", color="tab:blue", alpha=0.4)
        raw = [percent(a) for a in column(f"val/{name}_raw")]
        score.plot(epochs, raw, label="not averaged", color="tab:blue", alpha=0.4)
        score.legend(fontsize="small")
    loss.legend(fontsize="small")
    if several:
        score.set(title="val: mean average precision, %", ylim=(None, 100))
    else:
        score.set(title="val: wrong answers, %", ylim=(0, None))
    rate.plot(epochs, column("lr"), color="tab:green")
    rate.set(title="learning rate", ylim=(0, None))
    for axes in (loss, score, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.savefig(picture, format="png", dpi=120)
