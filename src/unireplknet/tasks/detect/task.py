"""Object detection, with masks or without."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from unireplknet.errors import UserError
from unireplknet.registry import Modality
from unireplknet.tasks.base import Evaluation, Maker, Options, Score, Shape, Task, Workload
from unireplknet.tasks.dense.build import UNUSED, build_dense
from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput

if TYPE_CHECKING:
    from unireplknet.data.split import DataSet
    from unireplknet.report.material import Material
    from unireplknet.tasks.detect.network import Detector
    from unireplknet.tasks.detect.score import Prediction
    from unireplknet.training.learner import Learner
    from unireplknet.training.recipe import Recipe
    from unireplknet.training.run import Run


@dataclass
class DetectHead:
    """What finds objects in the features.

    Args:
        detector: "faster_rcnn", "mask_rcnn" (with masks, see input.masks) or "retinanet".
        width: Channels of the pyramid.
        anchors: Side in pixels of the square anchor of each level of the pyramid.
        box_head: What looks at each box: "mlp", or four convolutions with batch statistics, "conv".
        head_width: Width of the layers between the features of a box and its class.
        proposals: Boxes of each image that these layers look at, at most, in evaluation.
        rois: Boxes of each image that they learn from.
    """

    detector: Literal["faster_rcnn", "mask_rcnn", "retinanet"] = "faster_rcnn"
    width: int = 256
    anchors: tuple[int, ...] = (32, 64, 128, 256, 512)
    box_head: Literal["mlp", "conv"] = "mlp"
    head_width: int = 1024
    proposals: int = 1000
    rois: int = 512


class Detection(Task["Detector"]):
    """Which objects there are in an image, and where."""

    name = "detection"
    scores: ClassVar[Mapping[str, Score]] = {"box_ap": Score("val: box AP, %")}
    inputs: ClassVar[Mapping[str, Modality]] = {"image": Modality(DetectInput, DetectAugment)}
    Head = DetectHead
    former_settings: ClassVar[Mapping[str, str]] = {
        "model.decoder_width": "head.width",
        **{f"model.{field.name}": f"head.{field.name}" for field in fields(DetectHead) if field.name != "width"},
    }
    unused = UNUSED | {"optim.label_smoothing"}
    former_modalities: ClassVar[Mapping[str, str]] = {"detect": "image"}
    exports = False

    def check(self, recipe: Recipe) -> None:
        """See that loss, augmentation and masks suit a detector of torchvision's."""
        super().check(recipe)
        optim = recipe.optim
        if optim.mixup or optim.cutmix or optim.loss != "cross_entropy":
            raise UserError(
                "boxes are learned with torchvision's losses, without optim.mixup, optim.cutmix and optim.loss"
            )
        if (recipe.head.detector == "mask_rcnn") != _inputs(recipe).masks:
            raise UserError("input.masks is for head.detector mask_rcnn, which needs it; set both or neither")

    def build(self, recipe: Recipe, names: Sequence[str]) -> Detector:
        """A backbone under a detector."""
        from unireplknet.tasks.detect.network import Detector

        model, inputs = recipe.model, _inputs(recipe)
        settings = asdict(recipe.head) | {"short": inputs.short, "long": inputs.long}
        construct = partial(Detector, model.name, inputs.channels, len(names), **settings)
        return build_dense(model, names, construct, "boxes are found")

    def learner(
        self, model: Detector, recipe: Recipe, outputs: int, steps_per_epoch: int, data: DataSet | None = None
    ) -> Learner:
        """The detector's losses, and AP of boxes."""
        from unireplknet.tasks.detect.learn import DetectionLearner

        return DetectionLearner(model, recipe, steps_per_epoch)

    def workload(self, recipe: Recipe) -> Workload:
        """Maps of several sizes, filled up to the largest of a batch; losses of boxes on top of the answer."""
        inputs, detector = _inputs(recipe), recipe.head.detector
        return Workload(
            _padded([(inputs.channels, inputs.short, inputs.long)]),
            batch_shape=_padded,
            forward=lambda model: model.layers,
            counted="" if detector == "retinanet" else "with as many boxes an image as the heads learn from at most;",
            unmeasured="what the head for masks keeps" if detector == "mask_rcnn" else "",
        )

    def add_options(self, parser: ArgumentParser, command: str) -> None:
        """Which boxes to show, and where to draw them."""
        if command == "predict":
            parser.add_argument("--least", type=float, default=0.5, help="score that a box needs (default: 0.5)")
            parser.add_argument(
                "--pictures", metavar="DIR", type=Path, help="where to draw (default: predictions in the run folder)"
            )

    def evaluate(self, run: Run, split: str = "", data: str = "", options: Options | None = None) -> Evaluation:
        """Average precision as COCO has it."""
        from unireplknet.tasks.detect.score import evaluate

        file, scores = evaluate(run, split, data)
        summary = scores.summary(run.classes)
        width = max(len(name) for name in run.classes)
        lines = []
        for name, row in summary["per_class"].items():
            each = "  ".join(_percent(row[f"{kind}_ap"]) for kind in scores.figures)
            lines.append(f"  {name:{width}}  {each}  of {row['objects']} objects")
        for kind, figures in scores.figures.items():
            values = (f"{name.upper().replace('_', ' ')} {_percent(value).strip()}" for name, value in figures.items())
            total = f"{summary['objects']} objects in {summary['images']} images"
            lines.append(f"{kind}: {', '.join(values)} of {total}")
        return Evaluation(split, summary, lines, [file])

    def predict(
        self, run: Run, paths: Sequence[str | Path], options: Options | None = None
    ) -> list[tuple[Prediction, str]]:
        """The objects in each file."""
        from unireplknet.tasks.detect.score import predict

        options = options or {}
        predictions = predict(run, paths, options.get("pictures"), options.get("least", 0.5))
        return [(p, f"{p.file}  {p.problem or _objects(p)}") for p in predictions]

    def headline(self, material: Material) -> Sequence[tuple[str, str]]:
        """The main scores."""
        from unireplknet.tasks.detect.report import boxes_in_short

        return boxes_in_short(material)

    def sections(self) -> Sequence[Maker]:
        """Scores, some boxes, and mistakes."""
        from unireplknet.tasks.detect.report import box_mistakes, box_scores, boxes

        return box_scores, boxes, box_mistakes


def _inputs(recipe: Recipe) -> DetectInput:
    assert isinstance(recipe.input, DetectInput)
    return recipe.input


def _padded(shapes: Sequence[Shape]) -> Shape:
    """Shape of a batch: as large as its largest map in each direction, and a multiple of STRIDE."""
    from unireplknet.tasks.detect.network import STRIDE

    channels, height, width = (max(sides) for sides in zip(*shapes, strict=True))
    return channels, -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE


def _percent(value: float | None) -> str:
    return "   -   " if value is None else f"{value:7.2%}"


def _objects(prediction: Prediction) -> str:
    found = "  ".join(
        f"{o.name} {o.score:.1%} at {', '.join(f'{side:g}' for side in o.box)}" for o in prediction.objects
    )
    return f"{found or 'nothing'}  {prediction.picture}"
