"""Which sections the report of a run has."""

from __future__ import annotations

from contextlib import suppress

from unireplknet.errors import UserError
from unireplknet.report.course import configuration, curves, data
from unireplknet.report.document import Section, Text
from unireplknet.report.exports import exports
from unireplknet.report.material import Material
from unireplknet.report.network import field, kernels


def headline(material: Material) -> list[tuple[str, str]]:
    """What to know first."""
    results = material.results
    rows: list[tuple[str, str]] = []
    with suppress(UserError):  # the section of the scores says why
        rows += material.recipe.task.headline(material)
    if "best_epoch" in results:
        rows.append((f"best of {material.recipe.optim.epochs} epochs", str(results["best_epoch"])))
        rows.append(("parameters, in training form", f"{results['parameters']:,}"))
        rows.append(("of training", _duration(results["seconds"])))
    else:
        rows.append(("epochs so far; the run is not finished", str(len(material.epochs))))
    return rows


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{seconds:.1f} s"


def make_sections(material: Material) -> list[Section]:
    """All that can be said of a run. Where the user could make a section possible, it says how."""
    made = []
    for maker in (configuration, data, curves, *material.recipe.task.sections(), field, kernels, exports):
        try:
            section = maker(material)
        except UserError as error:
            name = maker.__name__.replace("_", " ")
            section = Section(maker.__name__, name.capitalize(), [Text(f"Not shown: {error}.")])
        if section is not None:
            made.append(section)
    return made
