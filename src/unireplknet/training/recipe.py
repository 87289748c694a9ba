"""A recipe: everything that decides a training run, as typed dataclasses with the same names in flags and YAML."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, get_type_hints

import yaml  # type: ignore[import-untyped]

from unireplknet.errors import UserError, missing_extra, nearest
from unireplknet.files import write_text
from unireplknet.modalities.base import Augment, Input
from unireplknet.registry import DEFAULT_TASK, MODALITIES, TASKS, Modality
from unireplknet.tasks.base import Task
from unireplknet.training.settings import Data, Model, Optim, Trainer

__all__ = ["Data", "Model", "Optim", "Recipe", "Trainer"]

logger = logging.getLogger(__name__)

WITHOUT_EFFECT = {"data.workers", "data.max_unreadable", "trainer.progress", "trainer.save_minutes"}
"""Settings that may change while a run is interrupted: its outcome does not depend on them."""


@dataclass
class Recipe:
    """Everything that decides a run.

    Attributes:
        name: Name of the recipe, and of the run folders it makes.
        model: The network.
        head: Settings of the task alone: its ``Head``, by default with the defaults.
        data: The samples.
        input: How a sample becomes a map; its type is the modality.
        augment: How training changes samples.
        optim: How the weights are found.
        trainer: How the work is carried out.
        task_name: Name of what is learned; empty for the input's own task.
    """

    name: str
    model: Model = field(default_factory=Model)
    head: Any = field(default=None, kw_only=True)
    data: Data = field(default_factory=Data)
    input: Input = field(kw_only=True)
    augment: Augment = field(kw_only=True)
    optim: Optim = field(default_factory=Optim)
    trainer: Trainer = field(default_factory=Trainer)
    task_name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set('/\\:*?"<>|\n\r\t\0') or self.name.strip(". ") != self.name:
            raise UserError(f"name is {self.name!r}; expected a plain name, for run folders are named after it")
        self.task_name = self.task_name or getattr(self.input, "task", DEFAULT_TASK)
        if self.head is None:
            self.head = self.task.Head()
        if not self.trainer.select:
            self.trainer = replace(self.trainer, select=next(iter(self.task.scores)))

    @property
    def task(self) -> Task[Any]:
        """What is learned."""
        return find_task(self.task_name)

    @property
    def modality(self) -> str:
        """Name of the modality, from the type of the input."""
        known = chain(self.task.inputs.items(), MODALITIES.usable())
        return next(name for name, modality in known if modality.input is type(self.input))

    def build(self, names: Sequence[str]) -> Any:
        """Construct the network.

        Args:
            names: Names of the outputs, such as classes.

        Raises:
            UserError: The settings contradict each other or the data.
        """
        self.task.check(self)
        return self.task.build(self, names)

    def parts(self) -> dict[str, Any]:
        """The dataclasses that flags and YAML address by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if not f.name.endswith("name")}

    def values(self) -> dict[str, dict[str, Any]]:
        """The values of each part, without settings that have no effect on the task."""
        unused = self.task.unused
        return {
            name: {f.name: getattr(part, f.name) for f in fields(part) if f"{name}.{f.name}" not in unused}
            for name, part in self.parts().items()
        }

    def settings(self) -> dict[str, Any]:
        """What decides the outcome of a run, by the names of the flags: an interrupted run goes on with these only."""
        values = _flat(self.values())
        return self._named() | {name: _plain(value) for name, value in values.items() if name not in WITHOUT_EFFECT}

    def _named(self) -> dict[str, Any]:
        return {"name": self.name, "modality": self.modality, "task": self.task_name}

    def override(self, values: dict[str, Any] | Sequence[str]) -> Recipe:
        """A recipe with some values replaced. Another batch size scales the learning rate, unless that is given too.

        Args:
            values: Nested names and values as in YAML, or flags such as ``["--optim.lr", "1e-3"]``.

        Raises:
            UserError: A name or a value is wrong.
        """
        import jsonargparse

        parser = self.parser()
        values = _renamed(values, self.task)
        try:
            parse = parser.parse_object if isinstance(values, dict) else parser.parse_args
            parsed, given = parse(values), parse(values, defaults=False)
        except jsonargparse.ArgumentError as error:
            raise UserError(_explain(str(error), parser.get_defaults().keys())) from error
        batch = parsed["optim.batch_size"]
        if batch != self.optim.batch_size and "optim.lr" not in given:
            parsed["optim.lr"] *= batch / self.optim.batch_size
            text = "optim.lr is scaled with optim.batch_size, %d instead of %d: %g instead of %g"
            logger.info(text, batch, self.optim.batch_size, parsed["optim.lr"], self.optim.lr)
        return Recipe(
            self.name,
            task_name=self.task_name,
            **{
                name: replace(getattr(self, name), **{key: parsed[f"{name}.{key}"] for key in values})
                for name, values in self.values().items()
            },
        )

    def parser(self) -> Any:
        """A jsonargparse parser with one flag a setting, this recipe's values as the defaults."""
        try:
            import docstring_parser
            import jsonargparse
        except ImportError as error:
            raise missing_extra("jsonargparse", "train") from error
        parser = jsonargparse.ArgumentParser(
            prog=f"unireplknet train {self.name}", exit_on_error=False, add_help=False, allow_abbrev=False
        )
        for name, values in self.values().items():
            if not values:
                continue
            part = getattr(self, name)
            doc = docstring_parser.parse(type(part).__doc__ or "")
            help_of = {param.arg_name: param.description for param in doc.params}
            group = parser.add_argument_group(f"{name}: {(doc.short_description or '').rstrip('.')}")
            types = get_type_hints(type(part))
            for key, value in values.items():
                group.add_argument(f"--{name}.{key}", type=types[key], default=value, help=help_of[key])
        return parser

    def save(self, path: Path) -> None:
        """Write the recipe as YAML."""
        text = self._named() | {name: _plain(values) for name, values in self.values().items() if values}
        write_text(path, yaml.safe_dump(text, sort_keys=False, default_flow_style=None))

    @staticmethod
    def load(path: Path) -> Recipe:
        """Read a recipe that :meth:`save` wrote; a field that is missing there has its default.

        Raises:
            UserError: The file is not a recipe.
        """
        try:
            return Recipe.of(yaml.safe_load(path.read_text(encoding="utf-8")))
        except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path} is not the config.yaml of a run: {error!r}") from error

    @staticmethod
    def of(values: Mapping[str, Any]) -> Recipe:
        """A recipe from the values that :meth:`save` writes; one that is missing has its default.

        Args:
            values: Name, modality and task, and a dictionary for each part. Those of earlier versions are understood.

        Raises:
            UserError: A name or a value is wrong.
        """
        values = _nested(upgrade(_flat(values)))
        name, task = values.pop("name"), find_task(values.pop("task"))
        kind, augment = find_modality(values.pop("modality"), task)
        return Recipe(name, input=kind(), augment=augment(), task_name=task.name).override(values)


@cache
def find_task(name: str) -> Task[Any]:
    """The task of that name.

    Raises:
        UserError: There is none.
    """
    return TASKS.find(name)()


def find_modality(name: str, task: Task[Any]) -> Modality:
    """How the samples of a modality become maps for a task.

    Raises:
        UserError: There is no such modality.
    """
    return task.inputs[name] if name in task.inputs else MODALITIES.find(name)


def upgrade(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names of the flags, as an earlier version may have written them, in today's form."""
    if "task" in settings:
        return dict(settings)
    settings = _with_task(settings)
    task = find_task(settings["task"])
    former = {name for _, kind in TASKS.usable() for name in kind.former_settings}
    dropped = (former - task.former_settings.keys()) | task.unused
    return {task.former_settings.get(name, name): value for name, value in settings.items() if name not in dropped}


def _with_task(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    for name, kind in sorted(TASKS.usable(), key=lambda entry: entry[0] == DEFAULT_TASK):  # which takes all others
        found = kind().from_former(settings)
        if found is not None:
            return {**found, "task": name}
    return {**settings, "task": DEFAULT_TASK}


def _renamed(values: dict[str, Any] | Sequence[str], task: Task[Any]) -> dict[str, Any] | list[str]:
    """Values or flags, those by today's names that have a former one."""
    if isinstance(values, dict):
        return _nested({task.former_settings.get(name, name): value for name, value in _flat(values).items()})
    words = []
    for word in values:
        flag, equals, value = word.partition("=")
        new = task.former_settings.get(flag.removeprefix("--"))
        if new and flag.startswith("--"):
            logger.warning("%s is called --%s now", flag, new)
            word = f"--{new}{equals}{value}"
        words.append(word)
    return words


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested names and values by the names of the flags."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= {f"{name}.{key}": v for key, v in value.items()} if isinstance(value, dict) else {name: value}
    return flat


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The reverse of :func:`_flat`."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        part, _, key = name.partition(".")
        if key:
            nested.setdefault(part, {})[key] = value
        else:
            nested[part] = value
    return nested


def _explain(message: str, names: Iterable[str]) -> str:
    """jsonargparse's message on one line, with the nearest flag where one is unknown."""
    line = " ".join(message.split())
    if line.startswith("unrecognized arguments: "):
        wrong = line.removeprefix("unrecognized arguments: ").split()[0].split("=")[0]
        return f"unknown flag {wrong}" + nearest(wrong, (f"--{name}" for name in names))
    return line


def _plain(value: Any) -> Any:
    """Tuples as lists, which is what YAML has."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
