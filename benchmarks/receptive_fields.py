"""Effective receptive fields: tables and pictures of docs/inspect.md.

    python benchmarks/receptive_fields.py
    python benchmarks/receptive_fields.py --trained runs/scenes/masks-K=13-0-16 runs/scenes/masks-ConvNeXt-0-16

What `unireplknet inspect field` measures. The first command looks at untrained networks, on images of random numbers: T
beside ConvNeXt-Tiny and ResNet-50, and A with large kernels of 3 to 31 at equal depth; it writes
results/receptive_fields.json and docs/field.png. The second looks at the backbones of runs, such as
benchmarks/scene_runs.py leaves, on the val samples of their data, before training (fresh weights of the run's
seed, at full strength as all untrained ones) and after; it writes results/receptive_fields_trained.json and
docs/field-trained.png.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
from _common import write_result

import unireplknet  # noqa: F401 - registers the models
from unireplknet.insight.field import Field
from unireplknet.inspection import Subject, find_subject, look_at_fields

DOCS = Path(__file__).parents[1] / "docs"
NETWORKS = ("unireplknet_t", "convnext_tiny", "resnet50")
KERNELS = (3, 7, 13, 19, 25, 31)
IMAGES, PIXELS = 16, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", metavar="RUN", type=Path, nargs="+", default=[], help="run folders")
    parser.add_argument("--data", default="", help="where the data of the runs lie now, if they have moved")
    options = parser.parse_args()
    if options.trained:
        fields = measure(before_and_after(options.trained), "field-trained.png", options.data)
        report("receptive_fields_trained", fields)
        return
    side_by_side = measure([find_subject(name) for name in NETWORKS], "field.png")
    by_kernel = measure([find_subject("unireplknet_a", kernel=kernel) for kernel in KERNELS])
    report("receptive_fields", side_by_side + by_kernel)


def before_and_after(runs: Sequence[Path]) -> list[Subject]:
    """Each run before and after its training, by the names of their folders."""
    found = [replace(find_subject(str(run)), name=run.name) for run in runs]
    return [subject for run in found for subject in (run.before_training(), run)]


def measure(subjects: Sequence[Subject], picture: str = "", data: str = "") -> list[Field]:
    """The fields, drawn as a picture of the documentation where it has a name."""
    with TemporaryDirectory() as folder:
        fields = look_at_fields(subjects, Path(folder), "", IMAGES, PIXELS, data)
        if picture:
            (DOCS / picture).write_bytes((Path(folder) / "field.png").read_bytes())
    return fields


def report(name: str, fields: Sequence[Field]) -> None:
    """Write and print what was measured."""
    rows = [field.summary() for field in fields]
    print(write_result(name, {"timm": timm.__version__, "images": IMAGES, "fields": rows}))
    for row in rows:
        print(row["name"], *(f"{ratio:.1%}" for ratio in row["area_ratio"].values()))


if __name__ == "__main__":
    main()
