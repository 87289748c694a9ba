"""How well a network classifies."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unireplknet.data.dataset import Draw
from unireplknet.errors import UserError
from unireplknet.insight.activations import draw_stages, stage_maps
from unireplknet.modalities.panels import panels
from unireplknet.report.document import Facts, Part, Picture, Sample, Samples, Section, Table, Text
from unireplknet.report.material import Material
from unireplknet.report.tables import of_classes, unreadable
from unireplknet.tasks.classify.confusion import confusions, draw_confusion
from unireplknet.tasks.classify.score import Scores, score_split, show_mistakes
from unireplknet.training.loader import build_loader


def classes_in_short(material: Material) -> list[tuple[str, str]]:
    """The main score."""
    found = material.evaluation
    key, name = ("map", "mean average precision") if "map" in found else ("top1", "top-1")
    return [(f"{name}, {found['split']} split", f"{found[key]:.2%}")]


def class_scores(material: Material) -> Section:
    """Scores of a network that classifies, of all samples and of each class."""
    found, labels = material.evaluation, material.once(scores_of).labels
    several = "map" in found
    samples = found["samples"]
    if several:
        facts = [("Mean average precision", f"{found['map']:.2%}")]
    else:
        right = round(found["top1"] * samples)
        low, high = _interval(right, samples)
        facts = [
            ("Top-1", f"{found['top1']:.2%}: {right:,} of {samples:,}"),
            ("95% interval of top-1 (Wilson)", f"{low:.2%} to {high:.2%}"),
            ("Mean over the classes", f"{found['mean_class_accuracy']:.2%}"),
            ("Top-5" if len(material.run.classes) > 5 else "", f"{found['top5']:.2%}"),
            ("The most frequent class, always said", f"{int(labels.bincount().max()) / samples:.2%}"),
        ]
    column = "average_precision" if several else "accuracy"
    rows = [
        (name, "no samples" if row[column] is None else f"{row[column]:.2%}", f"{row['samples']:,}")
        for name, row in found["per_class"].items()
    ]
    rows.sort(key=lambda row: (row[1] == "no samples", found["per_class"][row[0]][column] or 0))
    head = ("Class", "Average precision" if several else "Right", "Samples")
    table = Table(f"Each class on the {found['split']} split, the worst first", head, rows, (1, 2))
    parts: list[Part] = [
        Text(f"On the {found['split']} split, by the weights of the epoch that did best on val."),
        Facts([fact for fact in facts if fact[0]]),
        of_classes(table),
        *unreadable("in this split", found["unreadable"]),
    ]
    return Section("scores", "Scores", parts)


def _interval(right: int, samples: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(right, samples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def confusion(material: Material) -> Section | None:
    """Which classes are taken for which."""
    classes, scores = material.run.classes, material.once(scores_of)
    if scores.labels.ndim == 2:
        return None
    matrix = scores.confusion(len(classes))
    draw_confusion(matrix, classes, file := material.folder / "confusion.png")
    pairs = confusions(matrix, classes)
    most = f"Most often, {pairs[0][0]} is taken for {pairs[0][1]}: {pairs[0][2]} samples." if pairs else ""
    right = f"{int(matrix.trace()):,} of {int(matrix.sum()):,} samples are on the diagonal."
    alt = f"Matrix of {len(classes)} true classes by {len(classes)} predicted ones. {right} {most}".rstrip()
    parts: list[Part] = [
        Picture.of(file, alt, f"Rows are true classes, columns what was said. {right} {most}".rstrip())
    ]
    if pairs:
        rows = [(true, said, str(count)) for true, said, count in pairs[:15]]
        parts.append(Table("The most frequent confusions", ("True", "Said", "Samples"), rows, (2,)))
    return Section("confusion", "Confusion", parts)


def mistakes(material: Material) -> Section | None:
    """The surest mistakes, as the network saw them."""
    if material.once(scores_of).labels.ndim == 2:
        return None
    split = material.data.splits[material.split]
    shown = show_mistakes(material.run, split, material.once(scores_of), 12)
    if not shown:
        return Section("mistakes", "Mistakes", [Text(f"None: every sample of the {material.split} split is right.")])
    samples = [
        Sample(
            Picture.of(
                _enlarged(s.picture), f"{Path(s.name).name} as the network saw it: {s.truth}, taken for {s.said}."
            ),
            s.said,
            f"{s.probability:.1%}",
            s.truth,
            s.name,
        )
        for s in shown
    ]
    text = "The mistakes of which the network was surest, as it saw them. Wrong labels are often among them."
    return Section("mistakes", "Mistakes", [Text(text), Samples(samples)])


def _enlarged(pixels: np.ndarray, least: int = 96) -> np.ndarray:
    """Small pictures with each pixel repeated, for readers that smooth them."""
    times = max(1, -(-least // max(pixels.shape[:2])))
    return pixels.repeat(times, 0).repeat(times, 1)


def stages(material: Material) -> Section:
    """What each stage makes of one val sample."""
    run, split = material.run, material.data.splits["val"]
    dataset = build_loader(run.recipe, split).dataset
    readable = (i for i in range(len(split)) if dataset[Draw(0, i)].map is not None)
    index = next(readable, None)
    if index is None:
        raise UserError("none of the val samples can be read")
    sample, name = dataset[Draw(0, index)].map, Path(split.name(index)).name
    maps = stage_maps(material.subject.model, sample)
    file = material.folder / "stages.png"
    draw_stages(panels(material.recipe.input, sample), maps, name, file)
    sizes = ", ".join(f"{h} x {w}" for _, h, w in (stage.shape for stage in maps))
    what = (
        f"{name} of the val split, the mean absolute activation of each stage ({sizes}), the channels that vary most."
    )
    return Section("stages", "Stages", [Picture.of(file, what, what)])


def scores_of(material: Material) -> Scores:
    """What the network says of the split."""
    return score_split(material.run, material.data.splits[material.split])
