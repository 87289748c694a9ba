"""A run as a file that needs nothing of ours, and such a file in place of the run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.dataset import Draw
from unireplknet.deploy.benchmark import take_turns
from unireplknet.deploy.describe import LICENCE, describe, names_of, recipe_of
from unireplknet.deploy.graph import FileNetwork
from unireplknet.deploy.targets import SUFFIXES, export_network, find_target
from unireplknet.errors import UserError
from unireplknet.tasks.base import Measured
from unireplknet.training.loader import build_loader
from unireplknet.training.run import Run

CALIBRATION = 300
"""Training samples by which the ranges of 8-bit numbers are found."""

POINTS, PART = 0.02, 0.05
"""What a file may lose on the val split: as much of an accuracy, and this part of an error in physical units."""


@dataclass
class Report:
    """What came of an export.

    Attributes:
        path: The file, the first of several.
        error: Largest relative error of its outputs; see :func:`~unireplknet.deploy.export_network`.
        megabytes: Size of all its files.
        runtime: What ran it.
        shape: Shape (C, H, W) of the maps that training used.
        size: Heights and widths of the maps that it takes: "any", "at least ..." or "fixed".
        milliseconds: Shortest time for one map, of the file and of the run in PyTorch.
        scores: On the val split, by name: of the file, and of the run.
        problem: Why there are no scores.
    """

    path: Path
    error: float = math.nan
    megabytes: float = 0.0
    runtime: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)
    size: str = ""
    milliseconds: tuple[float, float] = (math.nan, math.nan)
    scores: dict[str, tuple[Measured, Measured]] = field(default_factory=dict)
    problem: str = ""

    def lines(self) -> list[str]:
        """The same for people."""
        one, other = self.milliseconds
        error = f"largest relative error in {self.runtime}: {self.error:.1e}"
        said = [
            f"written: {self.path}, {self.megabytes:.1f} MB; {error}",
            f"maps: {self.shape} in training, height and width in the file: {self.size};"
            f" {one:.1f} ms for one, {other:.1f} ms by the run in PyTorch",
        ]
        for name, values in self.scores.items():
            after, before = values
            said.append(f"val: {name} {after}, of the run {before}")
        return [*said, f"val: not scored, {self.problem}"] if self.problem else said


def export_run(
    run: Run,
    path: Path | None = None,
    to: str = "onnx",
    precision: str = "fp32",
    licence: str = LICENCE,
    data: str = "",
    calibration: int = CALIBRATION,
) -> Report:
    """Write the best epoch of a run for another runtime.

    Args:
        run: The run.
        path: The file; by default one in the run folder.
        to: The format, one of :data:`~unireplknet.deploy.targets.TARGETS`.
        precision: "fp32", "fp16", "bf16" or "int8".
        licence: What the file says about its licence.
        data: Where the data lie now, if they have moved. They are scored where they are at hand; int8 needs them.
        calibration: How many training samples int8 is calibrated by.

    Raises:
        UserError: Networks of the task are not exported; the file disagrees with the network, on random maps or in
            what it scores on the val split; or a library is not installed.
    """
    target, recipe = find_target(to, precision), run.recipe
    if not recipe.task.exports:
        raise UserError(f"{run.path} is for {recipe.task.name}, whose networks are not exported")
    ending = target.suffix if precision == "fp32" else f"-{precision}{target.suffix}"
    report = Report(run.path / f"{target.stem}{ending}" if path is None else path)
    if report.path.resolve() == (run.path / "model.safetensors").resolve():
        raise UserError(f"{report.path} holds the weights of the run as it was trained; choose another --out")
    model = run.load_model()
    report.shape = recipe.task.map_shape(recipe, model)
    try:
        splits = run.load_data(data).splits
    except UserError as error:
        if precision == "int8":
            raise UserError(f"int8 needs the training samples: {error}") from error
        splits, report.problem = {}, str(error)

    def judge(network: FileNetwork) -> None:
        report.runtime, report.size = network.runtime, network.metadata["size"]
        if splits:
            report.scores = _compare(run, network, model, splits["val"])
        report.milliseconds = _time(network, model.cpu(), report.shape)

    maps = _some_maps(run, splits["train"], calibration) if precision == "int8" else ()
    said = describe(run, report.shape, precision, licence)
    report.error = export_network(
        model, report.path, report.shape, to, precision, recipe.task.free_size, said, maps, judge=judge
    )
    report.megabytes = sum(file.stat().st_size for file in target.files(report.path)) / 1e6
    return report


def _some_maps(run: Run, split: Any, count: int) -> list[Tensor]:
    """Maps (1, C, H, W) of samples drawn at random."""
    dataset = build_loader(run.recipe, split).dataset
    order = np.random.default_rng(run.recipe.trainer.seed).permutation(len(split))[: max(1, count)]
    samples = (dataset[Draw(0, index)] for index in order.tolist())
    return [sample.map[None] for sample in samples if sample.map is not None]


def _compare(run: Run, network: FileNetwork, model: Any, split: Any) -> dict[str, tuple[Measured, Measured]]:
    """The scores of a file and of its run.

    Raises:
        UserError: The file has lost more than it may.
    """
    task = run.recipe.task
    found, wanted = task.measure(network, run, split), task.measure(model, run, split)
    for name, (before, higher_is_better) in wanted.items():
        after = found[name].value
        kept = after >= before - POINTS if higher_is_better else after <= before * (1 + PART)
        if not kept and not math.isnan(before):
            raise UserError(
                f"the exported file has {name} {after:.4g} on the val split, the run {before:.4g}: more than is"
                " accepted is lost, and the file was not written; another --precision loses less"
            )
    return {name: (found[name], before) for name, before in wanted.items()}


def _time(network: FileNetwork, model: Any, shape: tuple[int, int, int]) -> tuple[float, float]:
    """Milliseconds for one map, of a file and of its run."""
    maps = torch.zeros(1, *shape)
    with torch.inference_mode():
        seconds = take_turns({"file": lambda: network(maps), "run": lambda: model(maps)}, rounds=5).best()
    return 1e3 * seconds["file"], 1e3 * seconds["run"]


@dataclass(frozen=True)
class Exported(Run):
    """A file of :func:`export_run` in place of its run.

    Attributes:
        path: Folder for what is made with it, beside it; it need not exist.
        file: The file.
    """

    file: Path

    @staticmethod
    def open(path: str | Path) -> Exported:
        """Take a file for a run.

        Raises:
            UserError: No exported file ends so.
        """
        file = Path(path)
        if file.suffix not in SUFFIXES:
            endings = ", ".join(SUFFIXES)
            raise UserError(f"{file} is neither a run folder nor an exported file, which end in {endings}")
        return Exported(file.with_name(f"{file.stem}-{file.suffix[1:]}"), file)

    @cached_property
    def network(self) -> FileNetwork:
        """The file's network."""
        return SUFFIXES[self.file.suffix](self.file)

    @cached_property
    def recipe(self) -> Any:
        """How samples become maps; what concerns training is not in the file."""
        return recipe_of(self.network.metadata, self.file)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in the order of the outputs: classes, or stations."""
        return names_of(self.network.metadata)

    @property
    def results(self) -> dict[str, Any]:
        """Nothing: what came of the training is not in the file."""
        return {}

    def load_model(self, checkpoint: Literal["best", "last"] = "best") -> FileNetwork:
        """The network, from maps to outputs; a file holds that of the best epoch."""
        return self.network
