"""What went into a run, and how it went: settings, data, curves."""

from __future__ import annotations

import io
import json
from typing import Any

from unireplknet.errors import UserError
from unireplknet.insight.curves import draw_curves
from unireplknet.registry import RECIPES
from unireplknet.report.document import Details, Facts, Part, Picture, Section, Table, Text
from unireplknet.report.material import Material
from unireplknet.report.tables import unreadable
from unireplknet.training.recipe import Recipe


def configuration(material: Material) -> Section:
    """The recipe, what differs from it, and every setting."""
    recipe, results = material.recipe, material.results
    known = RECIPES.get(recipe.name)
    original = (
        known()
        if known
        else Recipe(recipe.name, input=type(recipe.input)(), augment=type(recipe.augment)(), task_name=recipe.task_name)
    )
    ours, theirs = _settings(recipe), _settings(original)
    if original.modality != recipe.modality:
        known, theirs = None, {}
    other = [
        (name, _plain(value), _plain(theirs.get(name, "")))
        for name, value in ours.items()
        if name not in theirs or value != theirs[name]
    ]
    of = "the recipe's" if known else "its default"
    versions = ", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items())
    machine = results.get("machine", {})
    facts = [
        ("Recipe", recipe.name if known else f"{recipe.name}, which is none of this version's"),
        ("Learns", f"{recipe.task.name}, from {recipe.modality}"),
        ("Network", recipe.model.row or recipe.model.name),
        ("Seed", str(recipe.trainer.seed)),
        ("Versions", versions or "not written down yet"),
        ("Machine", f"{machine['system']}, {machine['threads']} threads" if machine else "not written down yet"),
    ]
    parts: list[Part] = [Facts(facts)]
    if other:
        parts.append(Table(f"Settings that differ from {of}", ("Setting", "Here", of.capitalize()), other))
    else:
        parts.append(Text(f"Every setting has {'the value of the recipe' if known else 'its default'}."))
    table = Table(
        "All settings, by the names of the flags", ("Setting", "Value"), [(n, _plain(v)) for n, v in ours.items()]
    )
    parts.append(Details(f"All {len(ours)} settings", [table]))
    return Section("configuration", "Configuration", parts)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {f"{name}.{key}": value for name, part in recipe.values().items() for key, value in part.items()}


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple | list | bool) else str(value)


def data(material: Material) -> Section:
    """How many samples of which classes there are, and which could not be read."""
    seen = material.results.get("data", {})
    counts = [(name, f"{split['samples']:,}") for name, split in seen.items()]
    parts: list[Part] = [Table("Samples of each split, as training found them", ("Split", "Samples"), counts, (1,))]
    parts += _names(material)
    parts += unreadable("in training", material.results.get("unreadable", []))
    return Section("data", "Data", parts)


def _names(material: Material) -> list[Part]:
    names, outputs = material.run.names, material.recipe.task.outputs
    try:
        counts = {
            name: material.recipe.task.samples_of_each(split, len(names))
            for name, split in material.data.splits.items()
        }
    except UserError as error:
        return [Facts([(f"{len(names)} {outputs}", ", ".join(names))]), Text(f"The data are not at hand: {error}.")]
    columns = {name: column for name, column in counts.items() if column is not None}
    if not columns:
        return [Facts([(f"{len(names)} {outputs}", ", ".join(names))])]
    rows = [(name, *(f"{int(column[i]):,}" for column in columns.values())) for i, name in enumerate(names)]
    table = Table("Samples of each class", ("Class", *columns), rows, range(1, len(columns) + 1))
    return [Details(f"{len(names)} {outputs}", [table])]


def curves(material: Material) -> Section | None:
    """The course of the training."""
    rows = material.epochs
    if not rows:
        return None
    file = io.BytesIO()
    draw_curves(material.run.path / "metrics.csv", file, material.recipe.task.scores)
    losses = [(float(row["val/loss"]), row["epoch"]) for row in rows if row.get("val/loss")]
    alt = f"Loss on training and val samples, score on val samples and learning rate, over {len(rows)} epochs."
    if losses:
        low, epoch = min(losses)
        alt += f" The val loss goes from {losses[0][0]:.3g} to {losses[-1][0]:.3g}; its lowest is {low:.3g}"
        alt += f", epoch {epoch}."
    picture = Picture.of(file.getvalue(), alt, "Loss, score on the val split and learning rate over the epochs.")
    columns = [name for name in rows[0] if any(row.get(name) for row in rows)]
    cells = [[_short(row.get(name, "")) for name in columns] for row in rows]
    table = Table("metrics.csv", columns, cells, range(len(columns)))
    return Section("curves", "Course of training", [picture, Details("Every epoch in numbers", [table])])


def _short(number: str) -> str:
    try:
        return f"{float(number):.4g}"
    except ValueError:
        return number
