"""What a run writes down while it trains."""

from __future__ import annotations

import csv
import logging
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

logger = logging.getLogger(__name__)

COLUMNS = ("epoch", "step", "lr", "train/loss", "val/loss", "val/accuracy", "seconds")


class EpochTable(pl.Callback):
    """Appends one line an epoch to a CSV file, at once, so that a crash loses nothing.

    Lightning's own CSV logger spreads an epoch over several lines and starts the file anew when a run is resumed.

    Args:
        path: The file.
        announce: Whether to log each line as well, for want of a progress bar.
    """

    def __init__(self, path: Path, announce: bool) -> None:
        self.path = path
        self.announce = announce
        self.started = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line; validation has run by now."""
        if not trainer.is_global_zero:
            return
        row: dict[str, float] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": time.perf_counter() - self.started,
        }
        row |= {k: float(v) for k, v in trainer.callback_metrics.items() if k in COLUMNS}
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" for k, v in row.items()})
        if self.announce:
            logger.info("%s", "  ".join(f"{k} {v:.4g}" for k, v in row.items()))


class Bar(TQDMProgressBar):
    """Lightning's progress bar without the name of the log folder in it."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The numbers beside the bar."""
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
