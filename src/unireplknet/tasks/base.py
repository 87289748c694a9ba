"""The one interface between the engine and what is learned: a task is a folder with a class of this kind."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from torch import nn

from unireplknet.errors import UserError
from unireplknet.registry import Modality
from unireplknet.training.settings import Head

if TYPE_CHECKING:
    from unireplknet.data.split import AnySplit, DataSet
    from unireplknet.report.document import Section
    from unireplknet.report.material import Material
    from unireplknet.training.learner import Learner
    from unireplknet.training.recipe import Recipe
    from unireplknet.training.run import Run

M = TypeVar("M", bound=nn.Module)
"""A task's network."""

Shape = tuple[int, int, int]
"""Channels, height and width."""

Options = Mapping[str, Any]
"""Values of the options that :meth:`Task.add_options` adds, by name; one that is missing has its default."""

Maker = Callable[["Material"], "Section | None"]
"""Makes a section of a report, or None where it does not apply."""


def percent(value: float) -> float:
    """A fraction as a percentage."""
    return 100 * value


@dataclass(frozen=True)
class Score:
    """A number that is computed on the val split after each epoch.

    Attributes:
        title: Title of its curve; empty where it has no axis of its own, as the loss.
        higher_is_better: Whether the best epoch has the highest.
        plotted: From the number to what is drawn.
        limits: Of the axis.
    """

    title: str = ""
    higher_is_better: bool = True
    plotted: Callable[[float], float] = percent
    limits: tuple[float | None, float | None] = (None, 100)


MIXING = frozenset({"optim.mixup", "optim.cutmix", "optim.mix_switch", "optim.mix_prob"})
"""Settings that blend samples with one another, and so the classes that they have."""

LOSS = Score(higher_is_better=False)


class Measured(NamedTuple):
    """A score of a network on a split.

    Attributes:
        value: The score: a fraction, or an error in physical units.
        higher_is_better: Whether it is a fraction, of which more is better.
    """

    value: float
    higher_is_better: bool = True

    def __str__(self) -> str:
        return f"{self.value:.2%}" if self.higher_is_better else f"{self.value:.4g}"


@dataclass(frozen=True)
class Evaluation:
    """The scores of a run on a split.

    Attributes:
        split: Name of the split.
        summary: The scores as plain numbers, as they are written into the run folder.
        lines: The same for people.
        files: What was written.
    """

    split: str
    summary: Mapping[str, Any]
    lines: Sequence[str]
    files: Sequence[Path]


class Prediction(Protocol):
    """What a run makes of one file: a dataclass whose fields are what ``predict --format json`` prints."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def file(self) -> str:
        """The file."""

    @property
    def problem(self) -> str:
        """Why there is no prediction."""


@dataclass(frozen=True)
class Workload:
    """What a dry run has to know about the training steps of a task.

    Attributes:
        largest: Shape of the largest map in training.
        batch_shape: Where samples have maps of several sizes: from their shapes to that of the maps of a batch.
        forward: From a network to what it computes of maps in training, where that is more than its answer.
        smallest_batch: Samples of the smallest batch that a step works with.
        counted: A remark on the arithmetic.
        unmeasured: What memory is not measured.
    """

    largest: Shape
    batch_shape: Callable[[Sequence[Shape]], Shape] | None = None
    forward: Callable[[Any], Callable[..., Any] | None] = lambda model: None
    smallest_batch: int = 1
    counted: str = ""
    unmeasured: str = ""


class Task(ABC, Generic[M]):
    """What is learned of maps: its network, loss, scores, predictions, options and part of the report.

    Attributes:
        name: Name of the task, under which it is registered.
        names_file: File in the run folder that holds the names of the network's outputs.
        names_are: What these are.
        scores: What is computed on the val split after each epoch, by the names of ``trainer.select``. The first is
            what selects the best epoch by default, and the first with a title is drawn.
        inputs: Modalities of the task's own, which read more of a sample than its map, by the name of the modality.
        former_modalities: How config.yaml named these before tasks had names: from that name to the modality's.
        Head: Settings of the task alone, ``head`` in a recipe: a dataclass with a docstring as those of the inputs.
        former_settings: What these were called when they were among those of all tasks, to today's names.
        unused: Settings of all tasks that have no effect on this one, by the names of the flags: it has no such flags.
        exports: Whether the network can be exported.
        free_size: Whether an exported network takes maps of any height and width.
    """

    name: ClassVar[str]
    names_file: ClassVar[str] = "classes.txt"
    names_are: ClassVar[str] = "class names"
    scores: ClassVar[Mapping[str, Score]]
    inputs: ClassVar[Mapping[str, Modality]] = {}
    former_modalities: ClassVar[Mapping[str, str]] = {}
    Head: ClassVar[type] = Head
    former_settings: ClassVar[Mapping[str, str]] = {}
    unused: ClassVar[frozenset[str]] = frozenset()
    exports: ClassVar[bool] = True
    free_size: ClassVar[bool] = True

    @property
    def outputs(self) -> str:
        """What a network has outputs for, such as classes."""
        return self.names_file.removesuffix(".txt")

    # Recipe and training

    def from_former(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Settings of a version in which tasks had no names, in today's form; None where they are of another task.

        Args:
            settings: Values by the names of flags, and "modality".
        """
        modality = self.former_modalities.get(settings["modality"])
        return None if modality is None else {**settings, "modality": modality}

    def check(self, recipe: Recipe) -> None:
        """See that the settings suit the task.

        Raises:
            UserError: They do not.
        """
        known = [*self.scores, "last"]
        if recipe.trainer.select not in known:
            raise UserError(
                f"trainer.select is {recipe.trainer.select}, which {self.name} does not have;"
                f" set it to {' or '.join(known)}"
            )

    def check_data(self, recipe: Recipe, data: DataSet) -> None:
        """See that the settings suit the data.

        Raises:
            UserError: They do not.
        """
        return

    @abstractmethod
    def build(self, recipe: Recipe, names: Sequence[str]) -> M:
        """Construct the network.

        Args:
            recipe: The settings.
            names: Names of the outputs.

        Raises:
            UserError: The settings contradict each other or the names.
        """

    def prepare(self, model: M, recipe: Recipe, data: DataSet) -> None:
        """Give a network what it takes from the data before training, in place."""
        return

    @abstractmethod
    def learner(
        self, model: M, recipe: Recipe, outputs: int, steps_per_epoch: int, data: DataSet | None = None
    ) -> Learner:
        """What Lightning trains.

        Args:
            model: The network.
            recipe: The settings.
            outputs: Number of outputs.
            steps_per_epoch: Optimizer steps in an epoch.
            data: The data, unless it is only to be found out what a step takes.
        """

    def workload(self, recipe: Recipe) -> Workload:
        """What a dry run has to know."""
        return Workload(recipe.input.shape)

    # Commands

    def add_options(self, parser: ArgumentParser, command: str) -> None:
        """Add the options of ``evaluate`` or ``predict`` that have an effect for this task.

        Args:
            parser: The parser of the command.
            command: Its name.
        """
        return

    @abstractmethod
    def evaluate(self, run: Run, split: str = "", data: str = "", options: Options | None = None) -> Evaluation:
        """Score the best epoch of a run on one of its splits, and write the outcome into the run folder.

        Args:
            run: The run.
            split: "train", "val" or "test"; by default test, or val where the data have no test split.
            data: Where the data lie now, if they have moved.
            options: Those of the task.

        Raises:
            UserError: There is no such split, or none of its samples can be scored.
        """

    @abstractmethod
    def predict(
        self, run: Run, paths: Sequence[str | Path], options: Options | None = None
    ) -> Sequence[tuple[Prediction, str]]:
        """Use a run on files.

        Args:
            run: The run.
            paths: Files, or folders to search for files of the modality.
            options: Those of the task.

        Returns:
            One prediction a file, in the order given, and a line that says it.

        Raises:
            UserError: A path does not exist, or no file was found or readable.
        """

    # Export

    def map_shape(self, recipe: Recipe, model: M) -> Shape:
        """Shape of the maps that an exported network is traced with."""
        return recipe.input.shape

    def activation(self, recipe: Recipe) -> str:
        """What makes probabilities of the outputs: "softmax", "sigmoid" or "none"."""
        return "none"

    def measure(self, model: nn.Module, run: Run, split: AnySplit) -> dict[str, Measured]:
        """What a network, perhaps an exported one, scores on a split of a run's data."""
        return {}

    # Report

    def evaluation_kind(self, recipe: Recipe) -> str:
        """What the name of the scores' file adds, where ``evaluate`` looks at samples in several ways."""
        return ""

    def evaluation(self, material: Material) -> dict[str, Any]:
        """What ``evaluate`` wrote of the split of a report; it is done anew unless it is of this checkpoint."""
        from unireplknet.tasks.scoring import evaluation_file

        run, split = material.run, material.split
        file = evaluation_file(run, split, self.evaluation_kind(run.recipe))
        if not file.exists() or file.stat().st_mtime < (run.path / "best.ckpt").stat().st_mtime:
            self.evaluate(run, split, material.path)
        return json.loads(file.read_text(encoding="utf-8"))

    def samples_of_each(self, split: AnySplit, outputs: int) -> np.ndarray | None:
        """How many samples of a split each output is for, shape (outputs,); None where that means nothing."""
        return None

    def headline(self, material: Material) -> Sequence[tuple[str, str]]:
        """The scores to know first, by name."""
        return ()

    def sections(self) -> Sequence[Maker]:
        """What a report says of how well a run does."""
        return ()


def at_least_one(text: str) -> int:
    """Read a count at the command line.

    Args:
        text: A whole number.

    Raises:
        ArgumentTypeError: It is none, or below 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r}; expected a whole number of at least 1")
    return int(text)
