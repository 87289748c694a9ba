"""What a report says of a run, section by section; a section that does not apply is None."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet.errors import UserError
from unireplknet.insight.activations import draw_stages, stage_maps
from unireplknet.insight.confusion import confusions, draw_confusion
from unireplknet.insight.curves import draw_curves
from unireplknet.inspection import Subject, find_subject, look_at_fields, look_at_kernels
from unireplknet.modalities.folder import Draw
from unireplknet.modalities.picture import panels
from unireplknet.nn.blocks import DilatedReparamConv
from unireplknet.recipes import RECIPES
from unireplknet.report.document import Details, Facts, Part, Picture, Sample, Samples, Section, Table, Text
from unireplknet.training.evaluate import Scores, choose_split, score_split, show_mistakes
from unireplknet.training.loader import build_loader
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run

MANY = 40
"""A table of more rows than this is folded away."""


@dataclass(frozen=True)
class Material:
    """What the sections are made of.

    Attributes:
        run: The run.
        asked: The split to score; "" for test, or val where there is none.
        path: Where the data lie now, if they have moved.
        folder: Where pictures may be drawn before they go into the page.
    """

    run: Run
    asked: str
    path: str
    folder: Path

    @cached_property
    def recipe(self) -> Recipe:
        """The settings of the run."""
        return self.run.recipe

    @cached_property
    def results(self) -> dict[str, Any]:
        """What results.json holds."""
        return self.run.results

    @cached_property
    def data(self) -> Any:
        """The data of the run; a UserError where they are not at hand."""
        return self.run.load_data(self.path)

    @cached_property
    def split(self) -> str:
        """The name of the split to score."""
        return choose_split(self.run, self.data, self.asked)

    @cached_property
    def subject(self) -> Subject:
        """The network of the run."""
        return find_subject(str(self.run.path))

    @cached_property
    def scores(self) -> Scores:
        """What the network says of the split, where it classifies."""
        return score_split(self.run, self.data.splits[self.split])

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """What ``evaluate`` wrote of the split; it is done anew unless it is of this checkpoint."""
        from unireplknet.training import forecast, segment

        if self.recipe.task == "classification":
            return {"split": self.split} | self.scores.summary(self.run.classes)
        file = self.run.path / f"evaluation-{self.split}.json"
        if not file.exists() or file.stat().st_mtime < (self.run.path / "best.ckpt").stat().st_mtime:
            evaluate = forecast.evaluate if self.recipe.task == "forecasting" else segment.evaluate
            evaluate(self.run, self.split, self.path)
        return json.loads(file.read_text(encoding="utf-8"))


def headline(material: Material) -> list[tuple[str, str]]:
    """What to know first."""
    results = material.results
    rows = _scores_in_short(material)
    if "best_epoch" in results:
        rows.append((f"best of {material.recipe.optim.epochs} epochs", str(results["best_epoch"])))
        rows.append(("parameters, in training form", f"{results['parameters']:,}"))
        rows.append(("of training", _duration(results["seconds"])))
    else:
        rows.append(("epochs so far; the run is not finished", str(len(_epochs(material)))))
    return rows


def _scores_in_short(material: Material) -> list[tuple[str, str]]:
    if material.recipe.task not in SCORES:
        return []
    try:
        found = material.evaluation
    except UserError:
        return []
    for key, name in (("top1", "top-1"), ("map", "mean average precision"), ("miou", "mean IoU")):
        if key in found:
            return [(f"{name}, {found['split']} split", f"{found[key]:.2%}")]
    ours = next(iter(found["scores"].values()))
    units = found["units"]
    return [
        (f"MAE of {target}, {found['split']} split", f"{errors['mae']:.3g} {units[target]}".rstrip())
        for target, errors in list(ours.items())[:2]
    ]


def configuration(material: Material) -> Section:
    """The recipe, what differs from it, and every setting."""
    recipe, results = material.recipe, material.results
    known = RECIPES.get(recipe.name)
    original = known() if known else Recipe(recipe.name, input=type(recipe.input)(), augment=type(recipe.augment)())
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
        ("Learns", f"{recipe.task}, from {recipe.modality}"),
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
    return {f"{name}.{key}": value for name, part in recipe.parts().items() for key, value in asdict(part).items()}


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, tuple | list | bool) else str(value)


def data(material: Material) -> Section:
    """How many samples of which classes there are, and which could not be read."""
    seen = material.results.get("data", {})
    counts = [(name, f"{split['samples']:,}") for name, split in seen.items()]
    parts: list[Part] = [Table("Samples of each split, as training found them", ("Split", "Samples"), counts, (1,))]
    if material.recipe.task == "forecasting":
        parts.append(Facts([("Stations", ", ".join(material.run.names))]))
    else:
        parts += _classes(material)
    parts += _unreadable("in training", material.results.get("unreadable", []))
    return Section("data", "Data", parts)


def _classes(material: Material) -> list[Part]:
    names = material.run.classes
    try:
        splits = {name: split.labels for name, split in material.data.splits.items() if hasattr(split, "labels")}
    except UserError as error:
        return [Facts([(f"{len(names)} classes", ", ".join(names))]), Text(f"The data are not at hand: {error}.")]
    columns = [
        labels.sum(0) if labels.ndim == 2 else np.bincount(labels, minlength=len(names)) for labels in splits.values()
    ]
    if not columns:
        return [Facts([(f"{len(names)} classes", ", ".join(names))])]
    rows = [(name, *(f"{int(column[i]):,}" for column in columns)) for i, name in enumerate(names)]
    table = Table("Samples of each class", ("Class", *splits), rows, range(1, len(columns) + 1))
    return [Details(f"{len(names)} classes", [table])]


def _unreadable(where: str, problems: Sequence[str]) -> list[Part]:
    if not problems:
        return [Text(f"No unreadable samples {where}.")]
    table = Table(f"Unreadable samples {where}", ("Sample, and why",), [(problem,) for problem in problems])
    return [Text(f"{len(problems)} unreadable sample(s) {where} were left out."), Details("Which ones", [table])]


def curves(material: Material) -> Section | None:
    """The course of the training."""
    rows = _epochs(material)
    if not rows:
        return None
    file = io.BytesIO()
    draw_curves(material.run.path / "metrics.csv", file)
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


def _epochs(material: Material) -> list[dict[str, str]]:
    return material.run.rows() if (material.run.path / "metrics.csv").exists() else []


def class_scores(material: Material) -> Section:
    """Scores of a network that classifies, of all samples and of each class."""
    found, labels = material.evaluation, material.scores.labels
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
        Details(f"All {len(rows)} classes", [table]) if len(rows) > MANY else table,
        *_unreadable("in this split", found["unreadable"]),
    ]
    return Section("scores", "Scores", parts)


def _interval(right: int, samples: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    interval = binomtest(right, samples).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def confusion(material: Material) -> Section | None:
    """Which classes are taken for which."""
    classes, scores = material.run.classes, material.scores
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
    if material.scores.labels.ndim == 2:
        return None
    split = material.data.splits[material.split]
    shown = show_mistakes(material.run, split, material.scores, 12)
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
        Details(f"All {len(rows)} classes", [table]) if len(rows) > MANY else table,
        *_unreadable("in this split", found["unreadable"]),
    ]
    return Section("scores", "Scores", parts)


def masks(material: Material) -> Section:
    """Some images with what the network made of them."""
    from unireplknet.training.segment import predict

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


def field(material: Material) -> Section:
    """How far the network sees."""
    (found,) = look_at_fields([material.subject], material.folder, data=material.path)
    areas = found.summary()["area_ratio"]
    height, width = found.scores.shape
    held = "; ".join(f"{part} of it in the central {ratio:.1%} of the area" for part, ratio in areas.items())
    of = "images of random numbers" if material.recipe.task == "forecasting" else "val samples"
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


def exports(material: Material) -> Section:
    """Which files were made of the run, and whether they still agree with it."""
    found = sorted(p for p in material.run.path.glob("model[.-]*") if p.name != "model.safetensors")
    if not found:
        return Section("export", "Export", [Text("Not exported.")])
    rows = []
    for path in found:
        size = sum(p.stat().st_size for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        rows.append((path.name, f"{size / 1e6:.2f} MB", f"{made:%Y-%m-%d %H:%M} UTC", _agreement(material, path)))
    table = Table("Files in the run folder", ("File", "Size", "Written", "Check"), rows, (1,))
    return Section("export", "Export", [table])


def _agreement(material: Material, path: Path) -> str:
    """How far the outputs of an exported file are from the run's, on some val samples."""
    if path.suffix != ".onnx" or material.recipe.task != "classification":
        return "not checked here"
    from unireplknet.deploy.exported import Exported
    from unireplknet.deploy.merge import relative_error

    try:
        loader = build_loader(material.recipe, material.data.splits["val"])
        maps = next(batch.maps for batch in loader if len(batch.maps))[:16]
        error = relative_error(Exported.open(path).load_model(), material.run.load_model(), maps)
    except UserError as problem:
        return f"not checked: {problem}"
    except Exception as problem:  # other makers' files may fail anywhere in the runtime
        return f"cannot be run: {' '.join(str(problem).split())[:200]}"
    return f"largest relative difference from the run on {len(maps)} val samples: {error:.1e}"


SCORES: dict[str, list[Callable[[Material], Section | None]]] = {
    "classification": [class_scores, confusion, mistakes],
    "forecasting": [forecast_scores],
    "segmentation": [mask_scores, masks],
}
"""What is said of how well a run does, by task; a task that is not here is reported without."""


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


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{seconds:.1f} s"
