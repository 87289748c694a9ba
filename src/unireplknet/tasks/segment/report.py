"""How well a network segments."""

from __future__ import annotations

from pathlib import Path

from unireplknet.report.document import Facts, Part, Picture, Section, Table, Text
from unireplknet.report.material import Material
from unireplknet.report.tables import of_classes, unreadable


def masks_in_short(material: Material) -> list[tuple[str, str]]:
    """The main score."""
    found = material.evaluation
    return [(f"mean IoU, {found['split']} split", f"{found['miou']:.2%}")]


def mask_scores(material: Material) -> Section:
    """Intersection over union of all pixels and of each class."""
    found = material.evaluation
    facts = [
        ("Mean IoU", f"{found['miou']:.2%}"),
        ("Pixels right", f"{found['pixel_accuracy']:.2%} of {found['pixels']:,}"),
        ("Mean accuracy of the classes", f"{found['mean_class_accuracy']:.2%}"),
        ("Images", f"{found['images']:,}"),
    ]
    per_class = sorted(found["per_class"].items(), key=lambda row: 2.0 if row[1]["iou"] is None else row[1]["iou"])
    rows = [
        (name, "no pixels" if row["iou"] is None else f"{row['iou']:.2%}", f"{row['pixels']:,}")
        for name, row in per_class
    ]
    table = Table(
        f"Each class on the {found['split']} split, the worst first", ("Class", "IoU", "Pixels"), rows, (1, 2)
    )
    parts: list[Part] = [
        Text(f"On whole images of the {found['split']} split, at the size of their masks."),
        Facts(facts),
        of_classes(table),
        *unreadable("in this split", found["unreadable"]),
    ]
    return Section("scores", "Scores", parts)


def masks(material: Material) -> Section:
    """Some images with what the network made of them."""
    from unireplknet.tasks.segment.score import predict

    files = [pair.image for pair in material.data.splits[material.split].items[:4]]
    parts = []
    for said in predict(material.run, files, material.folder / "masks"):
        if said.picture:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in said.shares.items())
            name = Path(said.file).name
            alt = f"{name}, and beside it the same with the class of each pixel in colour: {shares}."
            parts.append(Picture.of(Path(said.picture), alt, f"{name}: {shares} of the pixels."))
    text = f"The first images of the {material.split} split, and what the network made of them."
    return Section("masks", "Masks", [Text(text), *parts])
