"""Furniture: 3D models of Debian's sweethome3d-furniture, sorted into ten classes by their names."""

from __future__ import annotations

import csv
import io
import re
import zipfile
from pathlib import Path, PurePosixPath

import numpy as np

from unireplknet.errors import UserError
from unireplknet.modalities.points import cloud_of, load_mesh, name_seed

CLASSES = {
    "bed": "bed crib",
    "cabinet": "bookcase cabinet cupboard dresser locker shelves wardrobe",
    "chair": "armchair bench chair seat stool",
    "door": "door window",
    "human": "boy female girl male",
    "lamp": "lamp lamppost light",
    "plant": "bush cactus flowers plant tree",
    "sofa": "couch futon sofa",
    "table": "desk table",
    "vehicle": "bus car motorbike scooter sedan suv truck van",
}
"""Words of a model's name that make it one of a class; the last such word counts: a desk lamp is a lamp."""

OTHER = {"abdominal", "bat", "blind", "box", "fan", "leon", "ottoman", "shutter"}
"""Words that make it something else: a table fan, a table tennis bat, the car Seat Leon."""

POSES = {"lying", "sitting"}
"""Left out, because the same persons stand there too."""

STUDIOS = {"Blend Swap", "BlendSwap", "Kator Legaz", "Reallusion", "Scopia", "Scopia & eTeks"}
"""Creators of much or of unknown origin: what they made is related where the file names begin with the same word."""


def furniture(package: Path, out: Path, count: int = 4096) -> list[dict[str, str]]:
    """Turn the furniture catalogues into a class-per-folder tree of point clouds.

    Args:
        package: Where the Debian package sweethome3d-furniture was unpacked.
        out: The folder to write, which must be new: ``CLASS/CATALOGUE-MODEL.npy``, each ``count`` points of the
            model's surface with y up, and ``groups.csv``.
        count: Points of each model.

    Returns:
        The rows of ``groups.csv``: file, class, name, creator, licence, and the group of related models that must not
        be divided between training and test.

    Raises:
        UserError: There are no catalogues in ``package``, or ``out`` exists.
    """
    catalogues = sorted(package.rglob("*.sh3f"))
    if not catalogues:
        raise UserError(f"{package} has no .sh3f files; expected the unpacked package sweethome3d-furniture")
    if out.exists():
        raise UserError(f"{out} exists already")
    rows = [row for path in catalogues for row in _convert(path, out, count)]
    with (out / "groups.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return rows


def class_of(name: str) -> str | None:
    """The class of a model by its English name; None for what is none of the ten."""
    words = re.findall("[a-z]+", name.lower())
    if (OTHER | POSES).intersection(words):
        return None
    found = [label for word in words for label, wanted in CLASSES.items() if word in wanted.split()]
    return found[-1] if found else None


def group_of(creator: str, model: str) -> str:
    """What a model is related to: all that its creator made, or in a studio's work what begins with the same word.

    Args:
        creator: The author of the model.
        model: Name of the file without its ending, such as ``window_2x4`` or ``holdingMale01``.
    """
    if creator not in STUDIOS:
        return creator
    first = re.search("[A-Z]?[a-z]+|[A-Z]+", model)
    return f"{creator}: {first.group().lower() if first else model}"


def _convert(path: Path, out: Path, count: int) -> list[dict[str, str]]:
    rows = []
    with zipfile.ZipFile(path) as archive:
        licence, models = _catalogue(archive.read("PluginFurnitureCatalog.properties").decode("latin-1"))
        for model in models:
            label = class_of(model["name"])
            if label is None:
                continue
            member = PurePosixPath(model["model"].lstrip("/"))
            file = Path(label) / f"{path.stem}-{member.stem}.npy"
            (out / label).mkdir(parents=True, exist_ok=True)
            mesh = load_mesh(io.BytesIO(archive.read(str(member))), "obj")
            rotation = np.array(model.get("modelRotation", "1 0 0 0 1 0 0 0 1").split(), dtype=np.float64)
            points = cloud_of(mesh, count, name_seed(file.name)) @ rotation.reshape(3, 3).T
            np.save(out / file, points.astype(np.float32))
            rows.append(
                {
                    "file": file.as_posix(),
                    "class": label,
                    "name": model["name"],
                    "creator": model["creator"],
                    "licence": licence,
                    "group": group_of(model["creator"], member.stem),
                }
            )
    return rows


def _catalogue(text: str) -> tuple[str, list[dict[str, str]]]:
    """The licence and the models of a Java properties file with lines such as ``name#3=Bed``."""
    models: dict[int, dict[str, str]] = {}
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", text, re.MULTILINE):
        models.setdefault(int(number), {})[key] = value.strip().encode("latin-1").decode("unicode_escape")
    licence = re.search("^license=(.*)$", text, re.MULTILINE)
    return licence.group(1).strip() if licence else "", list(models.values())
