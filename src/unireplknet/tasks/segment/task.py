"""Semantic segmentation: the class of every pixel."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import nn

from unireplknet.errors import UserError
from unireplknet.registry import Modality
from unireplknet.tasks.base import LOSS, Evaluation, Maker, Measured, Options, Score, Task, Workload, at_least_one
from unireplknet.tasks.dense.build import UNUSED, build_dense
from unireplknet.tasks.segment.inputs import SegmentAugment, SegmentInput

if TYPE_CHECKING:
    from unireplknet.data.split import AnySplit, DataSet
    from unireplknet.report.material import Material
    from unireplknet.tasks.segment.network import Segmenter
    from unireplknet.tasks.segment.score import Prediction
    from unireplknet.training.learner import Learner
    from unireplknet.training.recipe import Recipe
    from unireplknet.training.run import Run


@dataclass
class SegmentHead:
    """What makes masks of the features.

    Args:
        decoder: "upernet", or the lighter "unet".
        width: Channels of UPerNet; of the first of U-Net's five steps, halved in each down to 16.
        auxiliary: Weight of the loss of a second head for masks, on the third stage; 0 for no such head.
    """

    decoder: Literal["upernet", "unet"] = "upernet"
    width: int = 256
    auxiliary: float = 0.0


class Segmentation(Task["Segmenter"]):
    """Which class each pixel of an image has."""

    name = "segmentation"
    scores: ClassVar[Mapping[str, Score]] = {"miou": Score("val: mean IoU, %"), "loss": LOSS}
    inputs: ClassVar[Mapping[str, Modality]] = {"image": Modality(SegmentInput, SegmentAugment)}
    Head = SegmentHead
    former_settings: ClassVar[Mapping[str, str]] = {
        "model.decoder": "head.decoder",
        "model.decoder_width": "head.width",
        "model.auxiliary": "head.auxiliary",
    }
    unused = UNUSED
    former_modalities: ClassVar[Mapping[str, str]] = {"segment": "image"}

    def check(self, recipe: Recipe) -> None:
        """See that loss, augmentation and batch suit masks."""
        super().check(recipe)
        optim, trainer = recipe.optim, recipe.trainer
        if optim.loss != "cross_entropy" or optim.mixup or optim.cutmix:
            raise UserError("masks are learned with optim.loss cross_entropy and without optim.mixup and optim.cutmix")
        alone = optim.device_batch(trainer.devices * trainer.nodes) == 1
        if alone and recipe.head.decoder == "upernet" and not trainer.sync_batchnorm:
            # Its coarsest level is one pixel an image.
            raise UserError("UPerNet's batch statistics need 2 images a device; raise optim.batch_size, or take unet")

    def check_data(self, recipe: Recipe, data: DataSet) -> None:
        """See that the masks show at least two classes."""
        from unireplknet.tasks.segment.learn import check_masks

        check_masks(recipe, data)

    def build(self, recipe: Recipe, names: Sequence[str]) -> Segmenter:
        """A backbone under a decoder."""
        from unireplknet.tasks.segment.network import Segmenter

        model = recipe.model
        decoder = (recipe.head.decoder, recipe.head.width, recipe.head.auxiliary > 0)
        construct = partial(Segmenter, model.name, recipe.input.channels, len(names), *decoder)
        return build_dense(model, names, construct, "masks are made")

    def learner(
        self, model: Segmenter, recipe: Recipe, outputs: int, steps_per_epoch: int, data: DataSet | None = None
    ) -> Learner:
        """Cross-entropy of pixels, and mean IoU."""
        from unireplknet.tasks.segment.learn import SegmentationLearner

        return SegmentationLearner(model, recipe, outputs, steps_per_epoch)

    def workload(self, recipe: Recipe) -> Workload:
        """Two images at least, for batch statistics; the auxiliary head is only computed in training."""
        return Workload(recipe.input.shape, forward=lambda model: model.forward_training, smallest_batch=2)

    def add_options(self, parser: ArgumentParser, command: str) -> None:
        """How to look at images, and what to show of masks."""
        if command == "evaluate":
            parser.add_argument("--multi-scale", action="store_true", help="average over scales and mirror images")
            parser.add_argument("--sliding", action="store_true", default=None, help="look at windows, not the whole")
        else:
            parser.add_argument("--top", type=at_least_one, default=5, help="how many classes to name (default: 5)")
            parser.add_argument(
                "--pictures", metavar="DIR", type=Path, help="where masks go (default: predictions in the run folder)"
            )

    def evaluate(self, run: Run, split: str = "", data: str = "", options: Options | None = None) -> Evaluation:
        """Mean IoU of whole images."""
        from unireplknet.tasks.segment.score import evaluate

        file, scores = evaluate(run, split, data, **(options or {}))
        summary = scores.summary(run.classes)
        width = max(len(name) for name in run.classes)
        lines = []
        for name, row in summary["per_class"].items():
            iou = "   -   " if row["iou"] is None else f"{row['iou']:7.2%}"
            lines.append(f"  {name:{width}}  {iou}  of {row['pixels']} pixels")
        means = f"mean IoU {summary['miou']:.2%}, pixels {summary['pixel_accuracy']:.2%}"
        return Evaluation(split, summary, [*lines, f"{means} of {summary['images']} images"], [file])

    def predict(
        self, run: Run, paths: Sequence[str | Path], options: Options | None = None
    ) -> list[tuple[Prediction, str]]:
        """The mask of each file."""
        from unireplknet.tasks.segment.score import predict

        options = options or {}
        predictions = predict(run, paths, options.get("pictures"))
        return [(p, f"{p.file}  {p.problem or _shares(p, options.get('top', 5))}") for p in predictions]

    def activation(self, recipe: Recipe) -> str:
        """One class a pixel."""
        return "softmax"

    def measure(self, model: nn.Module, run: Run, split: AnySplit) -> dict[str, Measured]:
        """Mean IoU."""
        from unireplknet.tasks.segment.data import MaskSplit
        from unireplknet.tasks.segment.score import Look, score, whole_images

        assert isinstance(split, MaskSplit)
        images = whole_images(run.recipe, split)
        scores = score(model, images, len(run.classes), Look.of(run.recipe))
        return {"mean IoU": Measured(scores.summary(run.classes)["miou"])}

    def evaluation_kind(self, recipe: Recipe) -> str:
        """How the recipe looks at images."""
        from unireplknet.tasks.segment.score import Look

        return Look.of(recipe).kind

    def headline(self, material: Material) -> Sequence[tuple[str, str]]:
        """The main score."""
        from unireplknet.tasks.segment.report import masks_in_short

        return masks_in_short(material)

    def sections(self) -> Sequence[Maker]:
        """Scores, and some masks."""
        from unireplknet.tasks.segment.report import mask_scores, masks

        return mask_scores, masks


def _shares(prediction: Prediction, top: int) -> str:
    shares = "  ".join(f"{name} {share:.1%}" for name, share in list(prediction.shares.items())[:top])
    return f"{shares}  {prediction.picture}"
