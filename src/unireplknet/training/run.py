"""A run: one training, and the folder that holds and explains all that came of it."""

from __future__ import annotations

import json
import logging
import platform
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

import unireplknet
from unireplknet import UniRepLKNet
from unireplknet._version import __version__
from unireplknet.errors import UserError, missing_extra
from unireplknet.modalities.folder import Labelled
from unireplknet.training.loader import build_loader
from unireplknet.training.recipe import Recipe

logger = logging.getLogger(__name__)

EXPLANATION = """# Run {name}

Made by `unireplknet train` {version}, recipe `{recipe}`.

| file | what it is |
|---|---|
| config.yaml | every setting; `unireplknet train {name}/config.yaml` repeats the run in a new folder |
| classes.txt | class names, one a line, in the order of the network's outputs |
| metrics.csv | one line an epoch: learning rate, losses, accuracy on the val split, seconds |
| curves.png | the same as a picture |
| tensorboard/ | the same for `tensorboard --logdir` |
| model.safetensors | weights of the epoch that did best on the val split, for `unireplknet.load_weights` |
| best.ckpt | the same epoch as a Lightning checkpoint; evaluate and predict use it |
| last.ckpt | weights and optimiser after the last epoch |
| results.json | the outcome: best epoch, scores, sizes of the splits, unreadable samples, versions |

`unireplknet evaluate {name}` scores it, `unireplknet predict {name} FILE...` uses it.
"""


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
        path: The folder.
    """

    path: Path

    @staticmethod
    def create(recipe: Recipe, classes: tuple[str, ...], out: Path | None = None) -> Run:
        """Make a new folder: ``out``, or the next free number under ``runs``.

        Raises:
            UserError: ``out`` holds something already.
        """
        if out is not None:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise UserError(f"{out} exists and is not empty; a run is never overwritten, choose another --out")
            out.mkdir(parents=True, exist_ok=True)
            run = Run(out)
        else:
            run = Run(_next_folder(Path("runs"), recipe.name))
        recipe.save(run.path / "config.yaml")
        (run.path / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        text = EXPLANATION.format(name=run.path.as_posix(), version=__version__, recipe=recipe.name)
        (run.path / "README.md").write_text(text, encoding="utf-8")
        return run

    @staticmethod
    def open(path: str | Path) -> Run:
        """Find an existing run.

        Raises:
            UserError: The folder is not that of a run.
        """
        if not (Path(path) / "config.yaml").is_file():
            raise UserError(f"{path} is not a run folder: {Path(path) / 'config.yaml'} is missing")
        return Run(Path(path))

    @property
    def recipe(self) -> Recipe:
        """The settings of the run."""
        return Recipe.load(self.path / "config.yaml")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return tuple((self.path / "classes.txt").read_text(encoding="utf-8").splitlines())

    @property
    def results(self) -> dict[str, Any]:
        """What results.json holds; empty before the run has finished."""
        file = self.path / "results.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def note(self, **values: Any) -> None:
        """Add values to results.json."""
        text = json.dumps(self.results | values, indent=2, ensure_ascii=False)
        (self.path / "results.json").write_text(text + "\n", encoding="utf-8")

    def load_data(self) -> Labelled:
        """The data of the run, divided as they were in training.

        Raises:
            UserError: The data have other classes now.
        """
        recipe = self.recipe
        data = recipe.data.load(recipe.input)
        if data.classes != self.classes:
            different = set(data.classes) ^ set(self.classes)
            raise UserError(f"the data in {recipe.data.path} have other classes than {self.path}: {different}")
        for name, seen in self.results.get("data", {}).items():
            if name in data.splits and data.splits[name].fingerprint() != seen["fingerprint"]:
                logger.warning("the %s split is not the one that %s was trained with", name, self.path)
        return data

    def load_model(self, checkpoint: Literal["best", "last"] = "best") -> UniRepLKNet:
        """The trained network in evaluation mode, not merged, on the CPU.

        Raises:
            UserError: The checkpoint is missing or unusable.
        """
        recipe, file = self.recipe, self.path / f"{checkpoint}.ckpt"
        recipe.model.weights = ""
        model = recipe.model.build(recipe.input.channels, self.classes)
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
            model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
        except FileNotFoundError as error:
            raise UserError(f"{file} is missing: did the run reach the end of its first epoch?") from error
        except Exception as error:  # a damaged file fails in many ways inside zipfile and pickle
            raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        return model.eval()


def fit(recipe: Recipe, out: Path | None = None) -> Run:
    """Train, choose the best epoch on the val split, and write everything down.

    Args:
        recipe: What to do.
        out: The run folder; by default the next free number under ``runs``.

    Returns:
        The run. Its test split has not been looked at.

    Raises:
        UserError: The recipe, the data or the folder are not usable; nothing has been written then.
        KeyboardInterrupt: The user stopped it; ``last.ckpt`` holds the state at that moment.
    """
    try:
        import lightning.pytorch as pl
        from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
        from lightning.pytorch.loggers import TensorBoardLogger
    except ImportError as error:
        raise missing_extra("lightning", "train") from error
    from unireplknet.training.callbacks import Bar, EpochTable
    from unireplknet.training.task import Classification

    data = recipe.data.load(recipe.input)
    pl.seed_everything(recipe.trainer.seed, verbose=False)
    model = recipe.model.build(recipe.input.channels, data.classes)
    run = Run.create(recipe, data.classes, out)
    logger.info("run folder %s: %s", run.path, ", ".join(f"{len(s)} {n}" for n, s in data.splits.items()))

    train = build_loader(recipe, data.splits["train"], augment=True)
    task = Classification(model, recipe, len(data.classes), len(train))
    mode: Literal["min", "max"] = "min" if recipe.trainer.select == "loss" else "max"
    best = ModelCheckpoint(
        run.path, "best", monitor=f"val/{recipe.trainer.select}", mode=mode, enable_version_counter=False
    )
    last = ModelCheckpoint(run.path, "last", save_on_exception=True, enable_version_counter=False)
    bar = recipe.trainer.progress and sys.stdout.isatty()  # where Lightning draws it
    callbacks: list[pl.Callback] = [EpochTable(run.path / "metrics.csv", not bar), best, last]
    if recipe.optim.ema:
        callbacks.insert(0, EMAWeightAveraging(decay=recipe.optim.ema))
    if bar:
        callbacks.append(Bar(leave=False))
    started = time.perf_counter()
    with _quiet():
        trainer = pl.Trainer(
            accelerator=recipe.trainer.accelerator,
            devices=recipe.trainer.devices,
            precision=recipe.trainer.precision,  # type: ignore[arg-type]
            max_epochs=recipe.optim.epochs,
            gradient_clip_val=recipe.optim.clip_grad or None,
            logger=TensorBoardLogger(run.path, name="", version="tensorboard"),
            callbacks=callbacks,
            enable_progress_bar=bar,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=min(10, len(train)),
        )
        handler = signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, train, build_loader(recipe, data.splits["val"]))
        except SystemExit as error:  # Lightning's answer to Ctrl-C, after saving and ignoring further ones
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt(f"stopped; the state is in {run.path / 'last.ckpt'}") from error
        finally:
            _draw_curves(run)
    unireplknet.save_weights(run.load_model(), run.path / "model.safetensors")
    run.note(
        best_epoch=torch.load(run.path / "best.ckpt", map_location="cpu", weights_only=True)["epoch"] + 1,
        best={f"val/{recipe.trainer.select}": float(best.best_model_score or "nan")},
        seconds=round(time.perf_counter() - started, 1),
        parameters=sum(p.numel() for p in model.parameters()),
        data={n: {"samples": len(s), "fingerprint": s.fingerprint()} for n, s in data.splits.items()},
        unreadable=sorted(task.unreadable),
        versions={"unireplknet": __version__, "torch": torch.__version__, "python": platform.python_version()},
        machine={"system": platform.platform(), "threads": torch.get_num_threads()},
    )
    return run


def _next_folder(root: Path, name: str) -> Path:
    """Make ``root/name-N`` with the smallest free N; mkdir decides, so that two runs never share one."""
    number = 1
    while True:
        folder = root / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def _draw_curves(run: Run) -> None:
    if (run.path / "metrics.csv").exists():
        from unireplknet.insight.curves import draw_curves

        draw_curves(run.path / "metrics.csv", run.path / "curves.png")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's greetings and its advice on loader workers out of the log."""
    noisy = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in noisy]
    for log in noisy:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
            warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")
            yield
    finally:
        for log, level in zip(noisy, levels, strict=True):
            log.setLevel(level)
