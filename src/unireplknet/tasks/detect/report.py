"""How well a network finds objects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from unireplknet.modalities.panels import panels
from unireplknet.report.document import Facts, Part, Picture, Sample, Samples, Section, Table, Text
from unireplknet.report.material import Material
from unireplknet.report.tables import of_classes, unreadable
from unireplknet.tasks.detect.data import BoxSplit
from unireplknet.tasks.detect.draw import CROWD, NONE, cut_out, draw_true_and_found, match
from unireplknet.training.loader import build_loader

HEADS = {
    "ap": "AP",
    "ap50": "AP50",
    "ap75": "AP75",
    "ap_small": "AP small",
    "ap_medium": "AP medium",
    "ap_large": "AP large",
    "ar100": "AR100",
}
"""COCO's names of its scores."""

LEAST = 0.5
"""Score of the boxes that are drawn and counted, as ``predict`` has it."""

LOOKED = 100
"""Images in which mistakes are looked for."""


class Looked(NamedTuple):
    """An image, and what is in it.

    Attributes:
        name: Its path.
        pixels: Shape (H, W, 3), from 0 to 1.
        truth: True objects, see :func:`unireplknet.tasks.detect.draw.match`.
        found: What was found with a score of at least LEAST.
    """

    name: str
    pixels: np.ndarray
    truth: dict[str, Tensor]
    found: dict[str, Tensor]


def boxes_in_short(material: Material) -> list[tuple[str, str]]:
    """COCO's main score, of boxes and of masks."""
    found = material.evaluation
    return [
        (f"{kind} AP, {found['split']} split", _percent(found[kind]["ap"])) for kind in ("box", "mask") if kind in found
    ]


def _percent(value: float | None) -> str:
    return "none to find" if value is None else f"{value:.2%}"


def box_scores(material: Material) -> Section:
    """COCO's scores of boxes and masks, over all classes and of each."""
    found = material.evaluation
    kinds = [kind for kind in ("box", "mask") if kind in found]
    scores = [(kind.capitalize(), *(_percent(found[kind][name]) for name in HEADS)) for kind in kinds]
    # Classes that are not to be found come last.
    per_class = sorted(
        found["per_class"].items(), key=lambda row: 2.0 if row[1]["box_ap"] is None else row[1]["box_ap"]
    )
    rows = [(name, *(_percent(row[f"{kind}_ap"]) for kind in kinds), f"{row['objects']:,}") for name, row in per_class]
    head = ("Class", *(f"{kind.capitalize()} AP" for kind in kinds), "Objects")
    each = f"Each class on the {found['split']} split, the worst first"
    parts: list[Part] = [
        Text(
            f"On the {found['split']} split, as COCO scores: AP is the mean over classes and over overlaps (IoU) of 0.5"
            " to 0.95 from which a box counts as found, AP50 and AP75 are those of one overlap. Small objects have less"
            " than 32 x 32 pixels, large ones more than 96 x 96. AR100 is the part of the objects that 100 boxes an"
            " image find, over the same overlaps."
        ),
        Facts([("Images", f"{found['images']:,}"), ("Objects", f"{found['objects']:,}")]),
        Table(f"Scores on the {found['split']} split", ("", *HEADS.values()), scores, range(1, len(HEADS) + 1)),
        of_classes(Table(each, head, rows, range(1, len(head)))),
        *unreadable("in this split", found["unreadable"]),
    ]
    return Section("scores", "Scores", parts)


def _look(material: Material, count: int) -> Iterator[Looked]:
    """The first images of the split and what the network finds in them, one by one: they may be large."""
    from unireplknet.tasks.detect.score import find, surest

    items = material.data.splits[material.split].items[:count]
    inputs: Any = material.recipe.input
    for batch, found in find(material.run.load_model(), build_loader(material.recipe, BoxSplit(items))):
        for index, map, truth, each in zip(batch.indices.tolist(), batch.maps, batch.labels, found, strict=True):
            yield Looked(str(items[index].image), panels(inputs, map)[0].pixels, truth, surest(each, LEAST))


def boxes(material: Material) -> Section:
    """Some images with the boxes that are true and those that were found."""
    classes, parts = material.run.classes, []
    for number, image in enumerate(islice(_look(material, 8), 4)):
        name, file = Path(image.name).name, material.folder / f"boxes-{number}.png"
        draw_true_and_found(image.pixels, image.truth, image.found, classes, name, file)
        true, said = (_listed(objects, classes) for objects in (image.truth, image.found))
        alt = f"{name} twice, with true boxes and with those that were found. True: {true}. Found: {said}."
        parts.append(Picture.of(file, alt, f"{name}, true and found. True: {true}. Found: {said}."))
    text = f"The first images of the {material.split} split. Found is what has a score of at least {LEAST:.0%}."
    return Section("boxes", "Boxes", [Text(text), *parts])


def _listed(objects: dict[str, Tensor], classes: tuple[str, ...]) -> str:
    counts = objects["labels"].bincount(minlength=len(classes)).tolist()
    return ", ".join(f"{count} {name}" for name, count in zip(classes, counts, strict=True) if count) or "nothing"


def box_mistakes(material: Material) -> Section:
    """The surest boxes that stand for no object, and how many objects were missed."""
    classes, wrong, objects, right, images = material.run.classes, [], 0, 0, 0
    for image in _look(material, LOOKED):
        matched = match(image.found, image.truth)
        images += 1
        objects += int((~image.truth["iscrowd"]).sum())
        right += int((matched >= 0).sum())
        for i in (matched == NONE).nonzero()[:, 0].tolist():
            wrong.append((image.found["scores"][i].item(), _mistake(image, matched, i, classes)))
    worst = sorted(wrong, key=lambda each: -each[0])[:12]
    text = (
        f"In the first {images} images of the {material.split} split, boxes of a score of at least {LEAST:.0%} find"
        f" {right:,} of {objects:,} objects, by an overlap of half and the right class, and {len(wrong):,} boxes stand"
        " for none."
    )
    if not worst:
        return Section("mistakes", "Mistakes", [Text(text)])
    more = " These are the ones of which the network was surest. Objects that nobody has marked are often among them."
    return Section("mistakes", "Mistakes", [Text(text + more), Samples([sample for _, sample in worst])])


def _mistake(image: Looked, matched: Tensor, i: int, classes: tuple[str, ...]) -> Sample:
    """The i-th box that was found, which is wrong, and what there is instead."""
    said, name = classes[int(image.found["labels"][i])], Path(image.name).name
    truth = _instead(image, matched, i, classes)
    pixels = cut_out(image.pixels, image.found["boxes"][i])
    picture = Picture.of(pixels, f"Piece of {name} taken for {said}, where there is {truth}.")
    return Sample(picture, said, f"{image.found['scores'][i]:.1%}", truth, image.name)


def _instead(image: Looked, matched: Tensor, i: int, classes: tuple[str, ...]) -> str:
    from torchvision.ops import box_iou

    overlaps = box_iou(image.found["boxes"][i : i + 1], image.truth["boxes"])[0]
    if not len(overlaps) or overlaps.max() < 0.1:
        return "nothing"
    nearest = int(overlaps.argmax())
    label = int(image.truth["labels"][nearest])
    if label == image.found["labels"][i] and nearest in matched[matched > CROWD].tolist():
        return f"{classes[label]}, found already"
    return f"{classes[label]}, of the same place by {overlaps[nearest]:.0%}"
