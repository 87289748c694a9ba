"""A run as one file that needs nothing of ours, and such a file in place of the run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from unireplknet._version import __version__
from unireplknet.deploy.onnx import OnnxNetwork, export_onnx
from unireplknet.errors import UserError
from unireplknet.modalities import MODALITIES
from unireplknet.training.evaluate import score
from unireplknet.training.loader import build_loader
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run

LICENCE = "Apache-2.0"
"""That of the network's code; whoever trained weights decides about them."""


def export_run(run: Run, path: Path | None = None, licence: str = LICENCE) -> tuple[Path, float]:
    """Write the best epoch of a run as an ONNX file.

    Args:
        run: The run.
        path: The file; by default ``model.onnx`` in the run folder.
        licence: What the file says about its licence.

    Returns:
        The file, and the largest relative error of its outputs; see :func:`~unireplknet.deploy.export_onnx`.

    Raises:
        UserError: The run segments or detects, the file disagrees with the network, or a library is not installed.
    """
    path = run.path / "model.onnx" if path is None else path
    recipe = run.recipe
    if recipe.task in ("segmentation", "detection"):
        raise UserError(f"{run.path} is for {recipe.task}; export writes networks that classify or forecast")
    model = run.load_model()
    classifies = recipe.task == "classification"
    shape = recipe.input.shape if classifies else model.window_shape
    metadata = {
        "format": "unireplknet 1",
        "version": __version__,
        "recipe": recipe.name,
        "task": recipe.task,
        "modality": recipe.modality,
        "names": json.dumps(run.names, ensure_ascii=False),
        "input_shape": json.dumps(shape),
        "preprocessing": json.dumps(asdict(recipe.input), ensure_ascii=False),  # type: ignore[call-overload]
        "activation": ("sigmoid" if recipe.optim.loss == "bce" else "softmax") if classifies else "none",
        "license": licence,
    }
    return path, export_onnx(model, path, shape, free_size=classifies, metadata=metadata)


def compare_scores(run: Run, exported: Exported, data: str = "") -> tuple[str, float, float]:
    """Score a run and its exported file on the val split.

    Args:
        run: A run that classifies.
        exported: Its file.
        data: Where the data lie now, if they have moved.

    Returns:
        The name of the score, that of the run and that of the file.
    """
    split = run.load_data(data).splits["val"]
    name, values = "top1", []
    for model in (run.load_model(), exported.load_model()):
        summary = score(model, build_loader(run.recipe, split, views=True), run.recipe.optim.loss).summary(run.classes)
        name = "map" if "map" in summary else "top1"
        values.append(summary[name])
    return {"map": "mean average precision", "top1": "top-1"}[name], *values


@dataclass(frozen=True)
class Exported:
    """A file of :func:`export_run`, with what predicting needs of a run.

    Attributes:
        path: The file.
    """

    path: Path

    @cached_property
    def network(self) -> OnnxNetwork:
        """The file's network."""
        return OnnxNetwork(self.path)

    @cached_property
    def recipe(self) -> Recipe:
        """How samples become maps; what concerns training is not in the file.

        Raises:
            UserError: The file is not one of ours.
        """
        said = self.network.metadata
        try:
            kind, augment = MODALITIES[said["modality"]]
            settings = json.loads(said["preprocessing"])
            loss = "bce" if said["activation"] == "sigmoid" else "cross_entropy"
        except (KeyError, json.JSONDecodeError) as error:
            raise UserError(f"{self.path} was not made by unireplknet export: no {error} in its metadata") from error
        return Recipe(said["recipe"], input=kind(), augment=augment()).override(
            {"input": settings, "optim": {"loss": loss}}
        )

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the outputs."""
        return tuple(json.loads(self.network.metadata["names"]))

    def load_model(self) -> OnnxNetwork:
        """The network, from maps to logits."""
        return self.network
