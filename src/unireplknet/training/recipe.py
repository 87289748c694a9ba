"""A recipe: everything that decides a training run, as typed dataclasses with the same names in flags and YAML."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

import yaml  # type: ignore[import-untyped]

from unireplknet import UniRepLKNet
from unireplknet.errors import UserError, missing_extra, nearest
from unireplknet.files import write_text
from unireplknet.modalities import MODALITIES, Augment, Input
from unireplknet.tasks.detect.network import Detector
from unireplknet.tasks.forecast.network import Forecaster
from unireplknet.tasks.segment.network import Segmenter
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
        data: The samples.
        input: How a sample becomes a map; its type is the modality.
        augment: How training changes samples.
        optim: How the weights are found.
        trainer: How the work is carried out.
    """

    name: str
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    input: Input = field(kw_only=True)
    augment: Augment = field(kw_only=True)
    optim: Optim = field(default_factory=Optim)
    trainer: Trainer = field(default_factory=Trainer)

    @property
    def modality(self) -> str:
        """Name of the modality, from the type of the input."""
        return next(name for name, (kind, _) in MODALITIES.items() if kind is type(self.input))

    @property
    def task(self) -> str:
        """What is learnt: classification, unless the input is for something else."""
        return getattr(self.input, "task", "classification")

    def build(self, names: Sequence[str]) -> UniRepLKNet | Forecaster | Segmenter | Detector:
        """Construct the network.

        Args:
            names: Names of the outputs: classes, or the stations to forecast.

        Raises:
            UserError: The settings contradict each other or the data.
        """
        if self.task == "classification":
            return self.model.build(self.input.channels, names)
        if self.task == "segmentation":
            return self.model.build_segmenter(self.input.channels, names)
        if self.task == "detection":
            if (self.model.detector == "mask_rcnn") != self.input.masks:  # type: ignore[attr-defined]
                raise UserError("input.masks is for model.detector mask_rcnn, which needs it; set both or neither")
            return self.model.build_detector(self.input.channels, names, self.input.detector())  # type: ignore[attr-defined]
        if self.trainer.select != "loss":
            raise UserError(f"trainer.select is {self.trainer.select}, which forecasts have not; set it to loss")
        backbone = self.model.build(self.input.channels, ())
        try:
            return Forecaster(backbone, len(names), **self.input.forecaster())  # type: ignore[attr-defined]
        except ValueError as error:
            raise UserError(f"input: {error}") from error

    def parts(self) -> dict[str, Any]:
        """The dataclasses that flags and YAML address by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "name"}

    def settings(self) -> dict[str, Any]:
        """What decides the outcome of a run, by the names of the flags: an interrupted run goes on with these only."""
        values = {
            f"{name}.{key}": _plain(value) for name, part in self.parts().items() for key, value in asdict(part).items()
        }
        return {"name": self.name, "modality": self.modality} | {
            name: value for name, value in values.items() if name not in WITHOUT_EFFECT
        }

    def override(self, values: dict[str, Any] | Sequence[str]) -> Recipe:
        """A recipe with some values replaced. Another batch size scales the learning rate, unless that is given too.

        Args:
            values: Nested names and values as in YAML, or flags such as ``["--optim.lr", "1e-3"]``.

        Raises:
            UserError: A name or a value is wrong.
        """
        import jsonargparse

        parser = self.parser()
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
            **{name: type(part)(**parsed[name].as_dict()) for name, part in self.parts().items()},
        )

    def parser(self) -> Any:
        """A jsonargparse parser with one flag a field, this recipe's values as the defaults."""
        try:
            import docstring_parser
            import jsonargparse
        except ImportError as error:
            raise missing_extra("jsonargparse", "train") from error
        parser = jsonargparse.ArgumentParser(
            prog=f"unireplknet train {self.name}", exit_on_error=False, add_help=False, allow_abbrev=False
        )
        for name, part in self.parts().items():
            doc = docstring_parser.parse(type(part).__doc__ or "")
            help_of = {param.arg_name: param.description for param in doc.params}
            group = parser.add_argument_group(f"{name}: {(doc.short_description or '').rstrip('.')}")
            types = get_type_hints(type(part))
            for f in fields(part):
                group.add_argument(
                    f"--{name}.{f.name}", type=types[f.name], default=getattr(part, f.name), help=help_of[f.name]
                )
        return parser

    def save(self, path: Path) -> None:
        """Write the recipe as YAML."""
        text = {"name": self.name, "modality": self.modality} | {
            name: _plain(asdict(part)) for name, part in self.parts().items()
        }
        write_text(path, yaml.safe_dump(text, sort_keys=False, default_flow_style=None))

    @staticmethod
    def load(path: Path) -> Recipe:
        """Read a recipe that :meth:`save` wrote; a field that is missing there has its default.

        Raises:
            UserError: The file is not a recipe.
        """
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
            kind, augment = MODALITIES[values.pop("modality")]
            recipe = Recipe(values.pop("name"), input=kind(), augment=augment())
        except (OSError, yaml.YAMLError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path} is not the config.yaml of a run: {error!r}") from error
        return recipe.override(values)


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
