"""A run: one training, and the folder that holds and explains all that came of it."""

from __future__ import annotations

import csv
import json
import logging
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

import unireplknet
from unireplknet._version import __version__
from unireplknet.data.split import DataSet
from unireplknet.errors import Stopped, UserError, missing_extra
from unireplknet.files import DISK_FULL, UNFINISHED, write_text
from unireplknet.models.weights import load_checked
from unireplknet.training.loader import build_loader, go_on, steps_per_epoch
from unireplknet.training.processes import is_first, started_together, telling, told_folder
from unireplknet.training.recipe import Recipe

if TYPE_CHECKING:
    from unireplknet.training.checkpoint import State
    from unireplknet.training.learner import LossNotFinite

logger = logging.getLogger(__name__)

LOCK = ".lock"

PATIENCE = 20.0
"""Seconds to wait for a run folder. A process that was killed leaves it once its loader workers have noticed."""

EXPLANATION = """# Run {name}

Made by `unireplknet train` {version}, recipe `{recipe}`.

| file | what it is |
|---|---|
| config.yaml | every setting; `unireplknet train {name}/config.yaml` repeats the run in a new folder |
| {names} | {what}, one a line, in the order of the network's outputs |
| metrics.csv | one line an epoch: learning rate, losses, score on the val split, images a second, seconds |
| curves.png | the same as a picture |
| tensorboard/ | the same for `tensorboard --logdir` |
| model.safetensors | weights of the epoch that did best on the val split, for `unireplknet.load_weights` |
| best.ckpt | the same epoch as a Lightning checkpoint; evaluate and predict use it |
| last.ckpt | everything that the run needs to go on after a crash or Ctrl-C: run the same command again |
| previous.ckpt | the one before, should last.ckpt be damaged |
| results.json | the outcome: best epoch, sizes of the splits, unreadable samples, versions |

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
    def create(path: Path, recipe: Recipe, names: tuple[str, ...]) -> Run:
        """Write down what a run in the empty folder ``path`` is about to do.

        Raises:
            UserError: A name holds a line break.
        """
        if broken := [name for name in names if "\n" in name or "\r" in name]:
            raise UserError(f"{broken[0]!r} holds a line break; give it another name")
        recipe.save(path / "config.yaml")
        file, what = recipe.task.names_file, recipe.task.names_are
        write_text(path / file, "".join(f"{name}\n" for name in names))
        text = EXPLANATION.format(name=path.as_posix(), version=__version__, recipe=recipe.name, names=file, what=what)
        write_text(path / "README.md", text)
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

    @cached_property
    def recipe(self) -> Recipe:
        """The settings of the run, read once: change a copy (``dataclasses.replace``), never this one."""
        return Recipe.load(self.path / "config.yaml")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the outputs: classes, or stations."""
        # Not splitlines: a name may hold what Unicode counts as the end of a line.
        with (self.path / self.recipe.task.names_file).open(encoding="utf-8", newline="") as file:
            return tuple(file.read().removesuffix("\n").split("\n"))

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return self.names

    @property
    def results(self) -> dict[str, Any]:
        """What results.json holds; only the samples of each split before the run has finished."""
        file = self.path / "results.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    @property
    def finished(self) -> bool:
        """Whether the run has reached its end."""
        return "best_epoch" in self.results

    def rows(self) -> list[dict[str, str]]:
        """The lines of metrics.csv, one an epoch."""
        with (self.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def note(self, **values: Any) -> None:
        """Add values to results.json."""
        text = json.dumps(self.results | values, indent=2, ensure_ascii=False)
        write_text(self.path / "results.json", text + "\n")

    def load_data(self, path: str = "") -> Any:
        """The data of the run, divided as they were in training.

        Args:
            path: Where they lie now, if they have moved.

        Raises:
            UserError: The data have other classes now.
        """
        recipe = self.recipe
        path = path or recipe.data.path
        data = replace(recipe.data, path=path).load(recipe.input)
        if data.names != self.names:
            different = ", ".join(sorted(set(data.names) ^ set(self.names))) or "another order"
            raise UserError(f"the data in {path} have other {recipe.task.outputs} than {self.path}: {different}")
        for name, seen in self.results.get("data", {}).items():
            if name in data.splits and data.splits[name].fingerprint() != seen["fingerprint"]:
                logger.warning("the %s split is not the one that %s was trained with", name, self.path)
        return data

    def load_model(self, checkpoint: Literal["best", "last"] = "best") -> Any:
        """The trained network in evaluation mode, not merged, on the CPU.

        Raises:
            UserError: The checkpoint is missing or unusable.
        """
        file = self.path / f"{checkpoint}.ckpt"
        model = replace(self.recipe, model=replace(self.recipe.model, weights="")).build(self.names)
        try:
            state = load_checked(file)["state_dict"]
            model.load_state_dict({k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")})
        except FileNotFoundError as error:
            raise UserError(f"{file} is missing: did the run reach the end of its first epoch?") from error
        except Exception as error:  # a damaged file fails in many ways inside zipfile and pickle
            raise UserError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        return model.eval()

    def first_model(self) -> Any:
        """The network as it was before training, in evaluation mode: rebuilt from the run's seed.

        Statistics that training took from the data beforehand, as forecasters do, are not in it.
        """
        recipe = self.recipe
        with torch.random.fork_rng():
            torch.manual_seed(recipe.trainer.seed)
            return recipe.build(self.names).eval()


def fit(recipe: Recipe, out: Path | None = None) -> Run:
    """Train, choose the best epoch on the val split, and write everything down.

    Args:
        recipe: What to do.
        out: The run folder; by default the next free number under ``runs``. Where it holds an unfinished run with
            the same settings, that run goes on as if it had never been interrupted.

    Returns:
        The run. Its test split has not been looked at. Where several processes train together, the files are complete
        when the first one returns.

    Raises:
        UserError: The recipe, the data or the folder are not usable, the disk is full, or the loss is no longer a
            number. What had been written before is kept.
        Stopped: SIGTERM or SIGUSR1 came; ``last.ckpt`` holds the state at that moment.
        KeyboardInterrupt: Ctrl-C likewise.
    """
    try:
        import lightning.pytorch as pl
    except ImportError as error:
        raise missing_extra("lightning", "train") from error
    from unireplknet.training.engine import build_trainer, quiet
    from unireplknet.training.learner import build_learner

    recipe.task.check(recipe)  # before the data are searched
    data = recipe.data.load(recipe.input)
    pl.seed_everything(recipe.trainer.seed, verbose=False)
    steps = steps_per_epoch(recipe, data.splits["train"])
    learner = build_learner(recipe, data, steps)

    path = _choose_folder(recipe, out)
    with quiet(), _explaining_full_disk(path):
        try:
            trainer = build_trainer(recipe, path, steps)
            place = trainer.global_rank, trainer.world_size
            train = build_loader(recipe, data.splits["train"], True, *place)
            val = build_loader(recipe, data.splits["val"], False, *place)
        except UserError:
            if not any(path.iterdir()):
                path.rmdir()
            raise
        with _alone_in(path) if is_first() else nullcontext():
            run, state = _begin(path, recipe, data) if is_first() else (Run(path), _find_state(path, recipe))
            if state is not None:
                logger.info("going on after epoch %d and %d of %d batches", state.epoch, state.batch, len(train))
                go_on(train, state.epoch, state.batch)
            with _explaining_the_end(run, data), telling(path):
                ckpt = None if state is None else state.path
                trainer.fit(learner, train, val, ckpt_path=ckpt, weights_only=True)
            if is_first():
                _finish(run, sorted(learner.unreadable))
    return run


def _choose_folder(recipe: Recipe, out: Path | None) -> Path:
    told = told_folder()
    if told is not None:
        return told
    if out is None and (started_together() or recipe.trainer.nodes > 1):
        raise UserError("processes that torchrun or SLURM start have to agree on a folder: add --out DIR")
    if out is not None and not is_first():
        out.mkdir(parents=True, exist_ok=True)
        return out
    return new_folder(recipe.name, out)


def _find_state(path: Path, recipe: Recipe) -> State | None:
    from unireplknet.training.checkpoint import find_state

    return find_state(path, recipe.settings())


def _begin(path: Path, recipe: Recipe, data: DataSet) -> tuple[Run, State | None]:
    """Start a run in a folder, or see where the unfinished one in it goes on.

    Raises:
        UserError: The run in it is finished, or has other settings or other data.
    """
    from unireplknet.training.checkpoint import differences

    splits = {n: {"samples": len(s), "fingerprint": s.fingerprint()} for n, s in data.splits.items()}
    if _is_empty(path):
        run = Run.create(path, recipe, data.names)
        run.note(data=splits)
        logger.info("run folder %s: %s", path, ", ".join(f"{len(s)} {n}" for n, s in data.splits.items()))
        return run, None
    run = Run.open(path)
    if run.finished:
        raise UserError(f"{path} is a finished run; a run is never overwritten, choose another --out")
    if other := differences(run.recipe.settings(), recipe.settings()):
        raise UserError(f"{path} is an unfinished run with other settings: {other}; choose another --out")
    written = (path / recipe.task.names_file).exists()  # unless it was killed before
    if (run.results.get("data", splits), run.names if written else data.names) != (splits, data.names):
        raise UserError(f"{path} was started with other samples; choose another --out")
    run = Run.create(path, recipe, data.names)
    run.note(data=splits)
    return run, _find_state(path, recipe)


def _finish(run: Run, unreadable: list[str]) -> None:
    """Write down the outcome. A run that was interrupted here comes here again."""
    model = run.load_model()
    unireplknet.save_weights(model, run.path / "model.safetensors")
    best = load_checked(run.path / "best.ckpt")
    run.note(
        best_epoch=best["epoch"] + 1,
        seconds=round(sum(float(row["seconds"]) for row in run.rows()), 1),
        parameters=sum(p.numel() for p in model.parameters()),
        unreadable=unreadable,
        versions={"unireplknet": __version__, "torch": torch.__version__, "python": platform.python_version()},
        machine={"system": platform.platform(), "threads": torch.get_num_threads()},
    )


@contextmanager
def _explaining_the_end(run: Run, data: DataSet) -> Iterator[None]:
    """Draw the curves whatever happens, and turn what ends a training early into what the caller expects."""
    from unireplknet.training.callbacks import refresh_curves
    from unireplknet.training.learner import LossNotFinite

    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except LossNotFinite as error:
        raise _save_bad_batch(run, data, error) from error
    except Stopped as error:
        hint = f"{error}; the same command with --out {run.path} goes on"
        if error.status == 130:
            raise KeyboardInterrupt(hint) from error
        raise Stopped(hint, error.status) from error
    except SystemExit as error:  # Lightning's answer to a second Ctrl-C, after ignoring further ones
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt("stopped at once; the same command goes on from the last state saved") from error
    finally:
        if is_first():
            refresh_curves(run.path, run.recipe.task.scores)


def _save_bad_batch(run: Run, data: DataSet, error: LossNotFinite) -> UserError:
    file = run.path / "nonfinite.json"
    samples = [data.splits["train"].name(index) for index in error.indices]
    text = json.dumps({"loss": str(error.loss), "step": error.step, "lr": error.lr, "samples": samples}, indent=2)
    write_text(file, text + "\n")
    return UserError(f"{error}; {file} names the batch; a lower optim.lr or an optim.clip_grad may help")


@contextmanager
def _explaining_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        text = f"{path} cannot be written: {error.strerror}; the last good state is kept, make room and go on"
        raise UserError(text) from error


@contextmanager
def _alone_in(path: Path) -> Iterator[None]:
    """Hold a run folder: two processes that train in one would spoil it."""
    from filelock import FileLock, Timeout

    lock = FileLock(path / LOCK)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.info("waiting for another process to leave %s", path)
            lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise UserError(f"another process is training in {path}; choose another --out") from error
    try:
        yield
    finally:
        lock.release()


def _is_empty(folder: Path) -> bool:
    """Whether there is nothing in a folder but what a process that was killed at once may leave."""
    return all(p.name == LOCK or p.name.endswith(UNFINISHED) for p in folder.iterdir())


def new_folder(name: str, out: Path | None = None) -> Path:
    """Make a folder for a run, or find the one of an unfinished run.

    Args:
        name: Name of the recipe.
        out: Which folder; by default ``runs/NAME-N`` with the smallest free N.

    Returns:
        The folder. It is empty, or holds a run.

    Raises:
        UserError: ``out`` holds something else.
    """
    if out is not None:
        if out.exists() and (not out.is_dir() or not (_is_empty(out) or (out / "config.yaml").is_file())):
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


def last_folder(name: str) -> Path:
    """The folder of the last run of a recipe among those that :func:`new_folder` numbered.

    Raises:
        UserError: There is none.
    """
    numbers = [n for p in Path("runs").glob(f"{name}-*") if (n := p.name.removeprefix(f"{name}-")).isdigit()]
    if not numbers:
        raise UserError(f"there is no run of {name} in {Path('runs').resolve()} to resume")
    return Path("runs") / f"{name}-{max(numbers, key=int)}"
