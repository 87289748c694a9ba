"""What recipes and the command line call by name, and where it is defined: nothing is imported before it is used.

A package outside this one adds to a registry by an entry point of the group that the registry names, for example in its
pyproject.toml::

    [project.entry-points."unireplknet.tasks"]
    regression = "my_package.regression:Regression"
"""

from __future__ import annotations

import logging
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, MutableMapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from unireplknet.errors import UserError, nearest

if TYPE_CHECKING:
    from unireplknet.data.installable import Installable
    from unireplknet.data.split import DataSet
    from unireplknet.modalities.base import Augment, Input
    from unireplknet.ops.backend import Backend
    from unireplknet.tasks.base import Task
    from unireplknet.training.plan import Samples
    from unireplknet.training.recipe import Recipe

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Modality(NamedTuple):
    """A kind of sample.

    Attributes:
        input: How a sample becomes a map.
        augment: How training changes samples.
    """

    input: type[Input]
    augment: type[Augment]


class Source(NamedTuple):
    """A kind of data set.

    Attributes:
        load: Finds the samples at a path, for an input.
        needs_path: Whether there has to be a path.
    """

    load: Callable[[Path, Any], DataSet]
    needs_path: bool = True

    def __call__(self, path: Path, inputs: Any) -> DataSet:
        """Find the samples.

        Args:
            path: Where they lie.
            inputs: How they will become maps.
        """
        return self.load(path, inputs)


class Registry(MutableMapping[str, T], Generic[T]):
    """Objects by name, each imported when it is first asked for.

    Args:
        kind: What the objects are, in a message.
        group: Group of the entry points by which other packages add objects.
        places: The objects of this package, as "module:name".
    """

    def __init__(self, kind: str, group: str, places: dict[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._places = places
        self._objects: dict[str, T] = {}

    @cached_property
    def _outside(self) -> dict[str, EntryPoint]:
        """Entry points of other packages; names of this package stay its own."""
        return {entry.name: entry for entry in entry_points(group=self.group) if entry.name not in self._places}

    def __getitem__(self, name: str) -> T:
        if name not in self._objects:
            if name in self._places:
                module, _, attribute = self._places[name].partition(":")
                self._objects[name] = getattr(import_module(module), attribute)
            else:
                self._objects[name] = self._load(self._outside[name])
        return self._objects[name]

    def _load(self, entry: EntryPoint) -> T:
        try:
            return entry.load()
        except Exception as error:  # another package's module may fail in any way
            package = entry.dist.name if entry.dist else entry.value
            raise UserError(f"{self.kind} {entry.name!r} of {package} cannot be imported: {error}") from error

    def usable(self) -> Iterator[tuple[str, T]]:
        """Names and objects, without what another package fails to import: that is a warning here."""
        for name in self:
            try:
                yield name, self[name]
            except UserError as error:
                logger.warning("%s", error)

    def __setitem__(self, name: str, value: T) -> None:
        self._objects[name] = value

    def __delitem__(self, name: str) -> None:
        del self._objects[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._objects or name in self._outside

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self._places, *self._outside, *self._objects)))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def find(self, name: str, setting: str = "") -> T:
        """The object of that name.

        Args:
            name: The name.
            setting: The setting that holds it, in a message.

        Raises:
            UserError: There is none, or the package that has it cannot be imported.
        """
        if name not in self:
            hint = nearest(name, self) or f"; there are {', '.join(self)}"
            raise UserError(f"{setting} is {name!r}{hint}" if setting else f"no {self.kind} {name!r}{hint}")
        return self[name]


TASKS: Registry[type[Task[Any]]] = Registry(
    "task",
    "unireplknet.tasks",
    {
        "classification": "unireplknet.tasks.classify.task:Classification",
        "segmentation": "unireplknet.tasks.segment.task:Segmentation",
        "detection": "unireplknet.tasks.detect.task:Detection",
        "forecasting": "unireplknet.tasks.forecast.task:Forecasting",
    },
)

DEFAULT_TASK = next(iter(TASKS))
"""The task of a recipe that names none, and whose input is for none in particular."""

MODALITIES: Registry[Modality] = Registry(
    "modality",
    "unireplknet.modalities",
    {
        "image": "unireplknet.modalities.image:MODALITY",
        "audio": "unireplknet.modalities.audio:MODALITY",
        "points": "unireplknet.modalities.points:MODALITY",
        "series": "unireplknet.modalities.series:MODALITY",
        "video": "unireplknet.modalities.video:MODALITY",
    },
)

DEFAULT_MODALITY = next(iter(MODALITIES))
"""The modality of networks that timm knows, and of files of which nothing is said."""

SOURCES: Registry[Callable[[Path, Any], DataSet]] = Registry(
    "data source",
    "unireplknet.sources",
    {
        "folder": "unireplknet.data.sources.folder:FOLDER",
        "shards": "unireplknet.data.shards.reading:SHARDS",
        "grouped": "unireplknet.data.sources.folder:GROUPED",
        "list": "unireplknet.data.sources.lists:LIST",
        "digits": "unireplknet.data.sources.digits:DIGITS",
        "masks": "unireplknet.tasks.segment.data:MASKS",
        "ade20k": "unireplknet.tasks.segment.data:ADE20K",
        "coco": "unireplknet.tasks.detect.data:COCO",
        "box_table": "unireplknet.tasks.detect.data:BOX_TABLE",
        "mnist": "unireplknet.data.sources.mnist:MNIST",
        "modelnet": "unireplknet.data.sources.modelnet:MODELNET",
        "scanobjectnn": "unireplknet.data.sources.scanobjectnn:SCANOBJECTNN",
        "kinetics": "unireplknet.data.sources.kinetics:KINETICS",
        "speechcommands": "unireplknet.data.sources.speech_commands:SPEECH_COMMANDS",
        "series": "unireplknet.tasks.forecast.inputs:SERIES",
        "ts": "unireplknet.data.sources.ts:TS",
    },
)

VIEWS: Registry[Callable[[ArgumentParser], None]] = Registry(
    "view",
    "unireplknet.views",
    {
        "field": "unireplknet.cli.looking:inspect_field",
        "kernels": "unireplknet.cli.looking:inspect_kernels",
        "stages": "unireplknet.tasks.classify.inspect:inspect_stages",
        "attribution": "unireplknet.tasks.classify.inspect:inspect_attribution",
        "confusion": "unireplknet.tasks.classify.inspect:inspect_confusion",
        "mistakes": "unireplknet.tasks.classify.inspect:inspect_mistakes",
    },
)
"""What ``inspect`` shows: each adds its arguments to a parser, and ``show``, which is given their values."""

_RECIPES = {
    "image": "digits folder",
    "audio": "speech_commands",
    "detect": "coco_t coco_s coco_s_in22k coco_b_in22k coco_l_in22k coco_xl_in22k boxes",
    "imagenet": "in1k_a in1k_f in1k_p in1k_n in1k_t in1k_s in22k_s in22k_b in22k_l in22k_xl"
    " in1k384_s in1k384_b in1k384_l in1k384_xl ablation",
    "points": "modelnet40 scanobjectnn",
    "segment": "ade20k_t ade20k_s ade20k_s_in22k ade20k_s_in22k_640 ade20k_b_in22k ade20k_l_in22k ade20k_xl_in22k"
    " masks",
    "series": "series global_temp global_wind",
    "video": "k400",
}

RECIPES: Registry[Callable[[], Recipe]] = Registry(
    "recipe",
    "unireplknet.recipes",
    {name: f"unireplknet.recipes.{module}:{name}" for module, names in _RECIPES.items() for name in names.split()},
)

_SAMPLES = {
    "imagenet:IN1K": ("in1k", "ablation"),
    "imagenet:IN22K": ("in22k",),
    "segment:ADE20K": ("ade20k",),
    "detect:COCO": ("coco",),
}

SAMPLES: Registry[Samples] = Registry(
    "data set of a recipe",
    "unireplknet.samples",
    {
        name: f"unireplknet.recipes.{place}"
        for place, beginnings in _SAMPLES.items()
        for names in _RECIPES.values()
        for name in names.split()
        if name.startswith(beginnings)
    },
)
"""Published sizes of the data of recipes, by which a training can be planned without the data."""

BACKENDS: Registry[Backend] = Registry("backend", "unireplknet.backends", {})
"""Backends of the depthwise convolution from other packages; ``ops/backend.py`` lists those of this one."""

INSTALLABLE: Registry[Installable] = Registry("data set", "unireplknet.datasets", {})
"""Data sets that ``unireplknet fetch`` installs; all come from other packages."""
