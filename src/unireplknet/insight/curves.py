"""The course of a training."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from unireplknet.insight.figure import new_figure
from unireplknet.tasks.base import Score


def draw_curves(metrics: Path, picture: Path | BinaryIO, scores: Mapping[str, Score]) -> None:
    """Draw losses, score and learning rate over the epochs; weights and their average, where both are scored.

    Args:
        metrics: The metrics.csv of a run.
        picture: The PNG file to write.
        scores: What is computed on the val split; the first one with a title that was computed is drawn.
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
    titled = [name for name, shown in scores.items() if shown.title] or list(scores)
    key = next((name for name in titled if any(row.get(f"val/{name}") for row in rows)), titled[0])
    name, shown = f"val/{key}", scores[key]
    score.plot(epochs, [shown.plotted(value) for value in column(name)], label="average of weights", color="tab:blue")
    if rows and "val/loss_raw" in rows[0]:
        loss.plot(epochs, column("val/loss_raw"), label="val, not averaged", color="tab:blue", alpha=0.4)
        raw = [shown.plotted(value) for value in column(f"{name}_raw")]
        score.plot(epochs, raw, label="not averaged", color="tab:blue", alpha=0.4)
        score.legend(fontsize="small")
    loss.legend(fontsize="small")
    score.set(title=shown.title or name, ylim=shown.limits)
    rate.plot(epochs, column("lr"), color="tab:green")
    rate.set(title="learning rate", ylim=(0, None))
    for axes in (loss, score, rate):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    figure.savefig(picture, format="png", dpi=120)
