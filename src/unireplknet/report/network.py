"""What there is to see in a network: how far it sees, its kernels, its stages."""

from __future__ import annotations

from unireplknet.inspection import look_at_fields, look_at_kernels
from unireplknet.nn.dilated_reparam import DilatedReparamConv
from unireplknet.report.document import Details, Picture, Section, Table, Text
from unireplknet.report.material import Material


def field(material: Material) -> Section:
    """How far the network sees."""
    (found,) = look_at_fields([material.subject], material.folder, data=material.path)
    areas = found.summary()["area_ratio"]
    height, width = found.scores.shape
    held = "; ".join(f"{part} of it in the central {ratio:.1%} of the area" for part, ratio in areas.items())
    of = "images of random numbers" if material.subject.embeds else "val samples"
    text = (
        f"How much each of the {height} x {width} pixels contributes to the central feature of the last map, averaged"
        f" over {found.images} {of}: {held}. All pixels alike would give 20, 30, 50 and 99%."
    )
    alt = f"The effective receptive field, brightest in the centre: {held}."
    picture = Picture.of(
        material.folder / "field.png", alt, "Effective receptive field, with the squares that hold it."
    )
    return Section("field", "Receptive field", [Text(text), picture])


def kernels(material: Material) -> Section | None:
    """The branches of the first large kernels, before and after training."""
    if not any(isinstance(module, DilatedReparamConv) for module in material.subject.model.modules()):
        return None
    table = look_at_kernels(material.subject, material.folder)
    rows = [
        (
            row["block"],
            "after" if row["trained"] else "before",
            f"{b['kernel_size']} x {b['kernel_size']}",
            str(b["dilation"]),
            f"{b['part']:.1%}",
        )
        for row in table
        for b in row["branches"]
    ]
    blocks = len({row["block"] for row in table})
    after = [b for row in table if row["trained"] for b in row["branches"]]
    widest = max(after, key=lambda b: b["part"])
    alt = (
        "The first Dilated Reparam Block of each stage, before and after training: each branch as a sparse kernel, and"
        f" their sum. After training the {widest['kernel_size']} x {widest['kernel_size']} branch of dilation"
        f" {widest['dilation']} of one block holds the largest part of a block's weights, {widest['part']:.0%}."
    )
    picture = Picture.of(
        material.folder / "kernels.png",
        alt,
        "The first block of each stage before and after training: its branches as the sparse kernels that they equal,"
        " and their sum, the kernel of the merged network. Brighter is a larger mean absolute weight.",
    )
    head = ("Block", "Training", "Kernel", "Dilation", "Part of the weights")
    listed = Table("Each branch's part of its block's absolute weights", head, rows, (3, 4))
    return Section("kernels", "Kernels", [picture, Details(f"All {blocks} blocks in numbers", [listed])])
