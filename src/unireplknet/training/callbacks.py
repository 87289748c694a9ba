"""What a run writes down while it trains."""

from __future__ import annotations

import csv
import io
import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from unireplknet.data.dataset import Batch
from unireplknet.errors import Stopped, UserError
from unireplknet.files import replacing, write_text
from unireplknet.tasks.base import Score
from unireplknet.training.checkpoint import BEST, LAST
from unireplknet.training.learner import Learner
from unireplknet.training.optim import rate_of

logger = logging.getLogger(__name__)

REQUEUE = 75
"""Exit status after SIGTERM or SIGUSR1: EX_TEMPFAIL, "try again later", so that a scheduler can requeue."""


class Pace(pl.Callback):
    """Measures how fast a training goes, all processes together, and foresees its end."""

    def __init__(self) -> None:
        self.laps: deque[tuple[float, int]] = deque(maxlen=50)  # seconds and samples of the latest batches
        self.done = 0
        self.ended = 0
        self.between = 0.0
        self.begin = self.lap = time.perf_counter()
        self.samples = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock, in the middle of an epoch where a run goes on."""
        self.ended = trainer.current_epoch
        self._start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the batch, and log speed and learning rate."""
        now, samples = time.perf_counter(), len(batch.labels) * trainer.world_size
        self.laps.append((now - self.lap, samples))
        self.lap = now
        self.samples += samples
        self.done = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        seconds, samples = map(sum, zip(*self.laps, strict=True))
        pl_module.log("img/s", samples / seconds, prog_bar=True)
        pl_module.log("lr", rate_of(trainer.optimizers[0]), prog_bar=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See how long an epoch takes beside its batches, mostly for validation."""
        self.between = time.perf_counter() - self.lap
        self.ended = trainer.current_epoch + 1

    @property
    def epoch_speed(self) -> float:
        """Training samples a second in the batches of this epoch that this process has seen."""
        return self.samples / (self.lap - self.begin) if self.samples else math.nan

    def left(self, trainer: pl.Trainer) -> timedelta:
        """Time until the end of the run, from the latest batches and the latest validation."""
        epochs = trainer.max_epochs or 0
        lap = sum(seconds for seconds, _ in self.laps) / max(1, len(self.laps))
        batches = epochs * int(trainer.num_training_batches) - self.done
        return timedelta(seconds=round(batches * lap + (epochs - self.ended) * self.between))

    def _start(self) -> None:
        self.begin = self.lap = time.perf_counter()
        self.samples = 0


class Averaging(WeightAveraging):
    """Lightning's running average of the weights, and beside its score that of the weights themselves.

    During validation the two have changed places.

    Args:
        decay: Decay a step, once the average is old enough, see :func:`young_decay`.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(multi_avg_fn=partial(_average, decay))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Give the average the arithmetic of the weights: they are rounded to it whenever the two change places."""
        super().setup(trainer, pl_module, stage)
        if self._average_model is not None:
            trainer.precision_plugin.convert_module(self._average_model)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let them change places."""
        super().on_validation_epoch_start(trainer, pl_module)
        assert self._average_model is not None
        self._average_model.module.eval()

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Score the weights themselves on the batch as well."""
        assert self._average_model is not None
        assert isinstance(pl_module, Learner)
        with trainer.precision_plugin.val_step_context():
            pl_module.score(batch, self._average_model.module, raw=True)


def young_decay(decay: float, count: int) -> float:
    """The decay of a running average that has seen a number of weights: less than it is to be in the end.

    The average is then over the last quarter of them. Otherwise a short training would keep the random numbers that it
    began with: 0.998 ^ 200 is two thirds.
    """
    return min(decay, (1 + count) / (5 + count))


def _average(decay: float, averages: Sequence[Tensor], weights: Sequence[Tensor], count: Tensor) -> None:
    get_ema_multi_avg_fn(young_decay(decay, int(count)))(averages, weights, count)


class Curves(pl.Callback):
    """Draws curves.png anew after each epoch; where epochs are short less often, so as not to slow them down.

    Args:
        folder: The run folder.
        scores: What is computed on the val split.
    """

    def __init__(self, folder: Path, scores: Mapping[str, Score]) -> None:
        self.folder = folder
        self.scores = scores
        self.due = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw; the epoch's line is written by now."""
        start = time.perf_counter()
        if trainer.is_global_zero and start >= self.due:
            refresh_curves(self.folder, self.scores)
            end = time.perf_counter()
            self.due = end + 10 * (end - start)


def refresh_curves(folder: Path, scores: Mapping[str, Score]) -> None:
    """Draw metrics.csv of a run as curves.png, whole or not at all. A failure is a warning: no run ends for it.

    Args:
        folder: The run folder.
        scores: What is computed on the val split.
    """
    if not (folder / "metrics.csv").exists():
        return
    try:
        from unireplknet.insight.curves import draw_curves

        with replacing(folder / "curves.png") as file:
            draw_curves(folder / "metrics.csv", file, scores)
    except Exception as error:
        logger.warning("%s could not be drawn: %s", folder / "curves.png", " ".join(str(error).split()))


class EpochTable(pl.Callback):
    """Appends one line an epoch to a CSV file, at once, so that a crash loses nothing.

    Lightning's own CSV logger spreads an epoch over several lines and starts the file anew when a run is resumed.

    Args:
        path: The file.
        scores: Names of what is computed on the val split.
        pace: Knows the speed, and has its turn before.
        averaged: Whether the weights and their average are scored separately.
        announce: Whether to log each line as well, for want of a progress bar.
    """

    def __init__(self, path: Path, scores: Iterable[str], pace: Pace, averaged: bool, announce: bool) -> None:
        self.path = path
        self.pace = pace
        columns = [f"val/{name}" for name in scores]
        # "raw" are scores of the weights themselves, where it is their average that is evaluated and kept.
        raw = [f"{name}_raw" for name in columns] if averaged else []
        self.columns = ["epoch", "step", "lr", "train/loss", *columns, *raw, "img/s", "seconds"]
        self.announce = announce
        self.before = 0.0
        self.started = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Seconds that the unfinished epoch has taken."""
        return {"seconds": self._seconds()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from an interrupted epoch."""
        self.before = state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; drop lines that were written after the checkpoint from which the run goes on."""
        self.started = time.perf_counter()
        if trainer.is_global_zero and self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                lines = [line for line in csv.DictReader(file) if line["seconds"]]  # the last one may be cut off
            rows = [line for line in lines if int(line["epoch"]) <= trainer.current_epoch]
            write_text(self.path, self._as_csv(rows, header=True))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.before, self.started = 0.0, time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line; validation has run by now."""
        metrics = trainer.callback_metrics  # computed now, by all processes together
        if not trainer.is_global_zero:
            return
        row: dict[str, float] = {
            "epoch": trainer.current_epoch + 1,
            "step": trainer.global_step,
            "lr": rate_of(trainer.optimizers[0]),
            "seconds": self._seconds(),
        }
        row |= {k: float(v) for k, v in metrics.items() if k in self.columns and k not in row}
        row["img/s"] = self.pace.epoch_speed
        line = self._as_csv([{k: f"{v:.6g}" for k, v in row.items()}], header=not self.path.exists())
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(line)
        if self.announce:
            said = "  ".join(f"{k} {v:.4g}" for k, v in row.items())
            logger.info("%s  left %s", said, self.pace.left(trainer))

    def _seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def _as_csv(self, rows: list[dict[str, str]], header: bool) -> str:
        text = io.StringIO()
        # Earlier versions had the scores of all tasks, most of them empty.
        writer = csv.DictWriter(text, self.columns, extrasaction="ignore")
        if header:
            writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


class Keeper(Checkpoint):
    """Keeps the best epoch and the latest state on the disk, and ends the run when a signal asks for it.

    A state is saved between steps, never while gradients are being accumulated, and after an epoch instead of after
    its last step: what follows a state is then always the beginning of a step or of an epoch.

    Lightning's ModelCheckpoint forgets the best score so far when the run folder is moved, overwrites the only good
    file, and saves whatever it finds after an exception.

    Args:
        folder: The run folder.
        select: Which score on the val split to compare; "last" compares nothing.
        higher_is_better: Whether the best epoch has the highest.
        minutes: Time between states within an epoch; 0 for every step.
    """

    def __init__(self, folder: Path, select: str, higher_is_better: bool, minutes: float) -> None:
        self.folder = folder
        self.select = select
        self.higher_is_better = higher_is_better
        self.minutes = minutes
        self.best = math.nan
        self.saved = time.monotonic()
        self.asked: signal.Signals | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score so far."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which puts the former handlers back when it is done."""
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
                if hasattr(signal, name):  # Windows has no SIGUSR1
                    signal.signal(getattr(signal, name), self._ask)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the state if it is time, or if a signal has come."""
        if trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        stop = self._agreed(trainer, self.asked is not None)
        if stop or self._agreed(trainer, time.monotonic() - self.saved >= 60 * self.minutes):
            self._save(trainer)
        if stop:
            self._stop(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch if none was better."""
        if self.select == "last":
            trainer.save_checkpoint(self.folder / BEST, weights_only=False)
            return
        score = float(trainer.callback_metrics[f"val/{self.select}"])
        if math.isnan(score):
            raise UserError(
                f"val/{self.select} is not a number after epoch {trainer.current_epoch + 1}: the val split has nothing"
                " that it is defined for; choose another trainer.select"
            )
        if math.isnan(self.best) or (score > self.best if self.higher_is_better else score < self.best):
            self.best = score
            trainer.save_checkpoint(self.folder / BEST, weights_only=False)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the state; the epoch's line is written by now."""
        self._save(trainer)
        if self._agreed(trainer, self.asked is not None) and trainer.current_epoch + 1 < (trainer.max_epochs or 0):
            self._stop(trainer)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait

    def _agreed(self, trainer: pl.Trainer, wish: bool) -> bool:
        """Whether any process wishes so: all have to save, and to stop, after the same step."""
        return trainer.strategy.reduce_boolean_decision(wish, all=False)

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        self.saved = time.monotonic()

    def _stop(self, trainer: pl.Trainer) -> None:
        asked = self.asked or signal.SIGTERM
        text = f"stopped by {asked.name} after step {trainer.global_step}; the state is in {self.folder / LAST}"
        raise Stopped(text, 130 if asked == signal.SIGINT else REQUEUE)


class Bar(TQDMProgressBar):
    """Lightning's progress bar with the time left of the whole run, and without the name of the log folder.

    Args:
        pace: Foresees the end.
    """

    def __init__(self, pace: Pace) -> None:
        super().__init__(leave=False)
        self.pace = pace

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """The numbers beside the bar."""
        metrics: dict[str, Any] = {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}
        if "img/s" in metrics:  # tqdm would write 6.64e+3
            metrics |= {"img/s": f"{metrics['img/s']:,.0f}", "ETA": str(self.pace.left(trainer))}
        return metrics
