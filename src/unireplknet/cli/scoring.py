"""``evaluate`` and ``predict``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unireplknet.cli.console import Parser, first_line, say


def evaluate(words: list[str]) -> None:
    """Score a run: accuracy and a confusion matrix, mean IoU of masks, AP of boxes, or forecasts beside simple ones."""
    parser = Parser("evaluate", first_line(evaluate))
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file that export made of one (with --data PATH)")
    parser.add_argument("--split", choices=("train", "val", "test"), default="", help="default: test, else val")
    parser.add_argument("--data", metavar="PATH", default="", help="where the data lie now, if they have moved")
    parser.add_argument("--multi-scale", action="store_true", help="masks: average over scales and mirror images")
    parser.add_argument("--sliding", action="store_true", default=None, help="masks: look at windows, not the whole")
    options = parser.parse_args(words)

    run = _open_run_or_file(options.run)
    run.path.mkdir(exist_ok=True)  # a file's results go beside it
    if run.recipe.task == "segmentation":
        _report_masks(run, options.split, options.data, options.multi_scale, options.sliding)
        return
    if options.multi_scale or options.sliding:
        parser.error(f"--multi-scale and --sliding are for masks; {options.run} is for {run.recipe.task}")
    report(run, options.split, options.data)


def report(run: Any, split: str = "", data: str = "") -> None:
    """Score a run and tell the scores of its task."""
    if run.recipe.task == "forecasting":
        _report_forecasts(run, split, data)
        return
    if run.recipe.task == "segmentation":
        _report_masks(run, split, data)
        return
    if run.recipe.task == "detection":
        _report_boxes(run, split, data)
        return
    from unireplknet.tasks.classify.score import evaluate as score_run

    split, scores = score_run(run, split, data)
    summary = scores.summary(run.classes)
    width = max(len(name) for name in run.classes)
    several = "map" in summary
    for name, row in summary["per_class"].items():
        value = row["average_precision" if several else "accuracy"]
        say(f"  {name:{width}}  {'   -   ' if value is None else f'{value:7.2%}'}  of {row['samples']}")
    if several:
        say(f"{split}: mean average precision {summary['map']:.2%} of {summary['samples']} samples")
    else:
        accuracies = f"top-1 {summary['top1']:.2%}, mean over classes {summary['mean_class_accuracy']:.2%}"
        say(f"{split}: {accuracies}, top-5 {summary['top5']:.2%} of {summary['samples']} samples")
    _tell_left_out(summary)
    say(f"written: {run.path / f'evaluation-{split}.json'}, {run.path / f'confusion-{split}.png'}")


def _report_forecasts(run: Any, split: str, data: str) -> None:
    from unireplknet.tasks.forecast.score import evaluate as score_run

    split, scores = score_run(run, split, data)
    for line in scores.table():
        say(line)
    say(f"{split}: {scores.windows} windows, {scores.left_out} left out for gaps")
    names = (f"evaluation-{split}.json", f"errors-{split}.png", f"forecasts-{split}.png")
    say(f"written: {', '.join(str(run.path / name) for name in names)}")


def _report_masks(
    run: Any, split: str = "", data: str = "", multi_scale: bool = False, sliding: bool | None = None
) -> None:
    from unireplknet.tasks.segment.score import evaluate as score_run

    file, scores = score_run(run, split, data, multi_scale, sliding)
    summary = scores.summary(run.classes)
    width = max(len(name) for name in run.classes)
    for name, row in summary["per_class"].items():
        iou = "   -   " if row["iou"] is None else f"{row['iou']:7.2%}"
        say(f"  {name:{width}}  {iou}  of {row['pixels']} pixels")
    say(f"mean IoU {summary['miou']:.2%}, pixels {summary['pixel_accuracy']:.2%} of {summary['images']} images")
    _tell_left_out(summary)
    say(f"written: {file}")


def _report_boxes(run: Any, split: str, data: str) -> None:
    from unireplknet.tasks.detect.score import evaluate as score_run

    file, scores = score_run(run, split, data)
    summary = scores.summary(run.classes)
    width = max(len(name) for name in run.classes)
    for name, row in summary["per_class"].items():
        each = "  ".join(_percent(row[f"{kind}_ap"]) for kind in scores.figures)
        say(f"  {name:{width}}  {each}  of {row['objects']} objects")
    for kind, figures in scores.figures.items():
        said = (f"{name.upper().replace('_', ' ')} {_percent(value).strip()}" for name, value in figures.items())
        say(f"{kind}: {', '.join(said)} of {summary['objects']} objects in {summary['images']} images")
    _tell_left_out(summary)
    say(f"written: {file}")


def _tell_left_out(summary: dict[str, Any]) -> None:
    if summary["unreadable"]:
        say(f"{len(summary['unreadable'])} unreadable samples were left out")


def _percent(value: float | None) -> str:
    return "   -   " if value is None else f"{value:7.2%}"


def predict(words: list[str]) -> None:
    """Classify or segment files with a trained run, find objects in them, or forecast what follows them."""
    parser = Parser("predict", first_line(predict))
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file that export made of one")
    parser.add_argument("files", metavar="FILE", nargs="+", help="files, or folders of files")
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (default: 5)")
    parser.add_argument("--least", type=float, default=0.5, help="score that a box needs to be told (default: 0.5)")
    parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    parser.add_argument(
        "--pictures", metavar="DIR", type=Path, help="draw what the network saw or made of each file there"
    )
    options = parser.parse_args(words)

    from dataclasses import asdict

    run = _open_run_or_file(options.run)
    if run.recipe.task == "forecasting":
        _predict_series(run, options.files, options.format)
        return
    if run.recipe.task == "segmentation":
        _predict_masks(run, options.files, options.format, options.top, options.pictures)
        return
    if run.recipe.task == "detection":
        _predict_boxes(run, options.files, options.format, options.least, options.pictures)
        return
    from unireplknet.tasks.classify.score import predict as predict_files

    predictions = predict_files(run, options.files, options.top, options.pictures)
    if options.format == "json":
        say(json.dumps([asdict(p) for p in predictions], indent=2, ensure_ascii=False))
        return
    for p in predictions:
        said = "  ".join(f"{c} {q:.1%}" for c, q in zip(p.classes, p.probabilities, strict=True))
        say(f"{p.file}  {said or 'unreadable'}")


def _open_run_or_file(path: str) -> Any:
    from unireplknet.training.run import Run

    if not Path(path).is_file():
        return Run.open(path)
    from unireplknet.deploy.exported import Exported

    return Exported.open(path)


def _predict_series(run: Any, files: list[str], form: str) -> None:
    from dataclasses import asdict

    from unireplknet.tasks.forecast.score import predict as predict_files

    predictions = predict_files(run, files)
    if form == "json":
        say(json.dumps([asdict(p) for p in predictions], indent=2, ensure_ascii=False, default=str))
        return
    for p in predictions:
        say(f"{p.file}  " + (p.problem or f"{p.table}, {p.picture}"))


def _predict_masks(run: Any, files: list[str], form: str, top: int, folder: Path | None) -> None:
    from dataclasses import asdict

    from unireplknet.tasks.segment.score import predict as predict_files

    predictions = predict_files(run, files, folder)
    if form == "json":
        say(json.dumps([asdict(p) for p in predictions], indent=2, ensure_ascii=False))
        return
    for p in predictions:
        shares = "  ".join(f"{name} {share:.1%}" for name, share in list(p.shares.items())[:top])
        say(f"{p.file}  " + (p.problem or f"{shares}  {p.picture}"))


def _predict_boxes(run: Any, files: list[str], form: str, least: float, folder: Path | None) -> None:
    from dataclasses import asdict

    from unireplknet.tasks.detect.score import predict as predict_files

    predictions = predict_files(run, files, folder, least)
    if form == "json":
        say(json.dumps([asdict(p) for p in predictions], indent=2, ensure_ascii=False))
        return
    for p in predictions:
        found = "  ".join(f"{o.name} {o.score:.1%} at {', '.join(f'{side:g}' for side in o.box)}" for o in p.objects)
        say(f"{p.file}  " + (p.problem or f"{found or 'nothing'}  {p.picture}"))
