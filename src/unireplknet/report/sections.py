"""Which sections the report of a run has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from unireplknet.errors import UserError
from unireplknet.report.course import configuration, curves, data
from unireplknet.report.document import Section, Text
from unireplknet.report.exports import exports
from unireplknet.report.material import Material
from unireplknet.report.network import field, kernels, stages
from unireplknet.tasks.classify.report import class_scores, classes_in_short, confusion, mistakes
from unireplknet.tasks.detect.report import box_mistakes, box_scores, boxes, boxes_in_short
from unireplknet.tasks.forecast.report import forecast_scores, forecasts_in_short
from unireplknet.tasks.segment.report import mask_scores, masks, masks_in_short

Maker = Callable[[Material], Section | None]
"""Makes a section, or None where it does not apply."""

IN_SHORT: dict[str, Callable[[Material], Sequence[tuple[str, str]]]] = {
    "classification": classes_in_short,
    "forecasting": forecasts_in_short,
    "segmentation": masks_in_short,
    "detection": boxes_in_short,
}
"""The scores to know first, by task; a task that is not here is reported without."""

SCORES: dict[str, Sequence[Maker]] = {
    "classification": [class_scores, confusion, mistakes],
    "forecasting": [forecast_scores],
    "segmentation": [mask_scores, masks],
    "detection": [box_scores, boxes, box_mistakes],
}
"""What is said of how well a run does, by task; a task that is not here is reported without."""


def headline(material: Material) -> list[tuple[str, str]]:
    """What to know first."""
    results, task = material.results, material.recipe.task
    rows: list[tuple[str, str]] = []
    with suppress(UserError):  # the section of the scores says why
        rows += IN_SHORT[task](material) if task in IN_SHORT else []
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
    task = material.recipe.task
    makers = [configuration, data, curves, *SCORES.get(task, []), field, kernels]
    if task == "classification":
        makers.append(stages)
    made = []
    for maker in [*makers, exports]:
        try:
            section = maker(material)
        except UserError as error:
            name = maker.__name__.replace("_", " ")
            section = Section(maker.__name__, name.capitalize(), [Text(f"Not shown: {error}.")])
        if section is not None:
            made.append(section)
    return made
