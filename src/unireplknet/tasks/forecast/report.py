"""How well a network forecasts."""

from __future__ import annotations

from unireplknet.report.document import Part, Picture, Section, Table, Text
from unireplknet.report.material import Material


def forecasts_in_short(material: Material) -> list[tuple[str, str]]:
    """The mean error of the first two targets."""
    found = material.evaluation
    ours, units = next(iter(found["scores"].values())), found["units"]
    return [
        (f"MAE of {target}, {found['split']} split", f"{errors['mae']:.3g} {units[target]}".rstrip())
        for target, errors in list(ours.items())[:2]
    ]


def forecast_scores(material: Material) -> Section:
    """Errors of forecasts beside those of baselines, by lead time too, and some windows."""
    found, path, split = material.evaluation, material.run.path, material.split
    targets = list(found["units"])
    heads = [
        f"{target}{f', {unit}' if (unit := found['units'][target]) else ''}: {kind}"
        for target in targets
        for kind in ("MSE", "MAE")
    ]
    rows = [
        (name, *(f"{errors[target][kind]:.4g}" for target in targets for kind in ("mse", "mae")))
        for name, errors in found["scores"].items()
    ]
    left = found["windows_left_out"]
    parts: list[Part] = [
        Text(f"{found['windows']:,} windows of the {split} split; {left:,} were left out for gaps."),
        Table("Errors beside those of baselines, on the same windows", ("", *heads), rows, range(1, len(heads) + 1)),
    ]
    ours, *others = found["scores"].items()
    best = {target: min(others, key=lambda row: row[1][target]["mae"]) for target in targets} if others else {}
    said = " ".join(
        f"{target}: {ours[0]} {ours[1][target]['mae']:.3g}, best of the others {name} {errors[target]['mae']:.3g}."
        for target, (name, errors) in best.items()
    )
    for name, what in (
        (f"errors-{split}.png", f"Mean absolute error by hours ahead, of the network and the baselines. {said}"),
        (f"forecasts-{split}.png", f"Windows of the {split} split: what was seen, foretold and measured."),
    ):
        if (path / name).exists():
            parts.append(Picture.of(path / name, what, what.partition(". ")[0].rstrip(".") + "."))
    return Section("scores", "Scores", parts)
