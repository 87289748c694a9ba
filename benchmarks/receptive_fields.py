"""Effective receptive fields of untrained networks, on images of random numbers: table and picture of docs/inspect.md.

    python benchmarks/receptive_fields.py

What `unireplknet inspect field` measures, of T beside ConvNeXt-Tiny and ResNet-50, and of A with large kernels of 3 to
31 at equal depth. Writes results/receptive_fields.json and docs/field.png.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import timm
from _common import write_result

import unireplknet  # noqa: F401 - registers the models
from unireplknet.inspection import find_subject, look_at_fields

NETWORKS = ("unireplknet_t", "convnext_tiny", "resnet50")
KERNELS = (3, 7, 13, 19, 25, 31)
IMAGES, PIXELS = 16, 512


def main() -> None:
    with TemporaryDirectory() as folder:
        side_by_side = look_at_fields([find_subject(name) for name in NETWORKS], Path(folder), "", IMAGES, PIXELS)
        (Path(__file__).parents[1] / "docs" / "field.png").write_bytes((Path(folder) / "field.png").read_bytes())
        subjects = [find_subject("unireplknet_a", kernel=kernel) for kernel in KERNELS]
        by_kernel = look_at_fields(subjects, Path(folder), "", IMAGES, PIXELS)
    rows = [field.summary() for field in (*side_by_side, *by_kernel)]
    print(write_result("receptive_fields", {"timm": timm.__version__, "images": IMAGES, "fields": rows}))
    for row in rows:
        print(row["name"], *(f"{ratio:.1%}" for ratio in row["area_ratio"].values()))


if __name__ == "__main__":
    main()
