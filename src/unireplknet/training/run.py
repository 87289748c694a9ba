"""A run: one training, and the folder that holds and explains all that came of it."""

from __future__ import annotations

import json
import logging
import platform
import signal
import time
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
    def create(path: Path, recipe: Recipe, classes: tuple[str, ...]) -> Run:
        """Write down what a run in the empty folder ``path`` is about to do."""
        recipe.save(path / "config.yaml")
        (path / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        text = EXPLANATION.format(name=path.as_posix(), version=__version__, recipe=recipe.name)
        (path / "README.md").write_text(text, encoding="utf-8")
        return Run(path)

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

    def load_data(self, path: str = "") -> Labelled:
        """The data of the run, divided as they were in training.

        Args:
            path: Where they lie now, if they have moved.

        Raises:
            UserError: The data have other classes now.
        """
        recipe = self.recipe
        recipe.data.path = path or recipe.data.path
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
    except ImportError as error:
        raise missing_extra("lightning", "train") from error
    from unireplknet.training.engine import build_trainer, quiet
    from unireplknet.training.task import Classification

    data = recipe.data.load(recipe.input)
    pl.seed_everything(recipe.trainer.seed, verbose=False)
    model = recipe.model.build(recipe.input.channels, data.classes)
    train = build_loader(recipe, data.splits["train"], augment=True)
    task = Classification(model, recipe, len(data.classes), len(train))

    path = new_folder(recipe.name, out)
    with quiet():
        try:
            trainer = build_trainer(recipe, path, len(train))
        except UserError:
            path.rmdir()
            raise
        run = Run.create(path, recipe, data.classes)
        logger.info("run folder %s: %s", path, ", ".join(f"{len(s)} {n}" for n, s in data.splits.items()))
        started, handler = time.perf_counter(), signal.getsignal(signal.SIGINT)
        try:
            trainer.fit(task, train, build_loader(recipe, data.splits["val"]))
        except SystemExit as error:  # Lightning's answer to Ctrl-C, after saving and ignoring further ones
            signal.signal(signal.SIGINT, handler)
            raise KeyboardInterrupt(f"stopped; the state is in {path / 'last.ckpt'}") from error
        finally:
            _draw_curves(run)
    unireplknet.save_weights(run.load_model(), path / "model.safetensors")
    best = torch.load(path / "best.ckpt", map_location="cpu", weights_only=True)
    run.note(
        best_epoch=best["epoch"] + 1,
        seconds=round(time.perf_counter() - started, 1),
        parameters=sum(p.numel() for p in model.parameters()),
        data={n: {"samples": len(s), "fingerprint": s.fingerprint()} for n, s in data.splits.items()},
        unreadable=sorted(task.unreadable),
        versions={"unireplknet": __version__, "torch": torch.__version__, "python": platform.python_version()},
        machine={"system": platform.platform(), "threads": torch.get_num_threads()},
    )
    return run


def new_folder(name: str, out: Path | None = None) -> Path:
    """Make a folder for a run.

    Args:
        name: Name of the recipe.
        out: Which folder; by default ``runs/NAME-N`` with the smallest free N.

    Returns:
        The folder, which is empty.

    Raises:
        UserError: ``out`` holds something already.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UserError(f"{out} exists and is not empty; a run is never overwritten, choose another --out")
        out.mkdir(parents=True, exist_ok=True)
        return out
    number = 1
    while True:
        folder = Path("runs") / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)  # and not a look beforehand: two runs may start at once
            return folder
        except FileExistsError:
            number += 1


def _draw_curves(run: Run) -> None:
    if (run.path / "metrics.csv").exists():
        from unireplknet.insight.curves import draw_curves

        draw_curves(run.path / "metrics.csv", run.path / "curves.png")
