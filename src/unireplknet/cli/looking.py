"""``inspect``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from unireplknet.cli.console import Parser, ViewParser, first_line, say
from unireplknet.errors import UserError


def inspect(words: list[str]) -> None:
    """Look into a network: how far it sees, its kernels, its stages, what a decision rests on, its mistakes."""
    parser = Parser("inspect", first_line(inspect))
    views = parser.add_subparsers(
        dest="view", required=True, metavar="VIEW", prog="unireplknet inspect", parser_class=ViewParser
    )
    for name, view in VIEWS.items():
        view(views.add_parser(name, help=first_line(view), description=first_line(view)))
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


def _inspect_confusion(parser: argparse.ArgumentParser) -> None:
    """Which classes a run takes for which."""
    _add_scored(parser)
    _add_out(parser, _show_confusion)


def _inspect_mistakes(parser: argparse.ArgumentParser) -> None:
    """The samples that a run takes for another class, as it saw them, the surest first."""
    _add_scored(parser)
    parser.add_argument("--count", type=int, default=24, help="how many at most (default: 24)")
    _add_out(parser, _show_mistakes)


VIEWS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "field": _inspect_field,
    "kernels": _inspect_kernels,
    "stages": _inspect_stages,
    "attribution": _inspect_attribution,
    "confusion": _inspect_confusion,
    "mistakes": _inspect_mistakes,
}


def _add_common(parser: argparse.ArgumentParser, show: Callable[[argparse.Namespace], None]) -> None:
    parser.add_argument("--pretrained", action="store_true", help="download the weights of networks that timm knows")
    _add_out(parser, show)


def _add_scored(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help="a run folder")
    parser.add_argument("--split", choices=("train", "val", "test"), default="", help="default: test, else val")
    parser.add_argument("--data", metavar="PATH", default="", help="where the run's data lie now, if they have moved")


def _add_out(parser: argparse.ArgumentParser, show: Callable[[argparse.Namespace], None]) -> None:
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
    from unireplknet.inspection import find_subject
    from unireplknet.tasks.classify.views import look_at_stages

    picture = look_at_stages(find_subject(options.model, options.pretrained), options.file, options.out)
    say(f"written: {picture}")


def _show_attribution(options: argparse.Namespace) -> None:
    from unireplknet.inspection import find_subject
    from unireplknet.tasks.classify.views import look_at_attribution

    subject = find_subject(options.model, options.pretrained)
    for found in look_at_attribution(subject, options.files, options.out, options.label):
        gap = f"unexplained {found.gap:.1%}"
        say(f"{found.file}  {found.label} {found.probability:.1%}, {gap}  written: {found.picture}")


def _show_confusion(options: argparse.Namespace) -> None:
    from unireplknet.inspection import find_subject
    from unireplknet.tasks.classify.views import look_at_confusion

    found = look_at_confusion(find_subject(options.model), options.out, options.split, options.data)
    for pair in found["confusions"][:10]:
        say(f"  {pair['true']} taken for {pair['said']}: {pair['samples']}")
    right, samples = sum(row[i] for i, row in enumerate(found["matrix"])), sum(map(sum, found["matrix"]))
    say(f"{found['split']}: {right} of {samples} samples right, {len(found['confusions'])} pairs of classes confused")
    say(f"written: {options.out / 'confusion.png'}, {options.out / 'confusion.json'}")


def _show_mistakes(options: argparse.Namespace) -> None:
    from unireplknet.inspection import find_subject
    from unireplknet.tasks.classify.views import look_at_mistakes

    if options.count < 1:
        raise UserError(f"--count is {options.count}; expected at least 1")
    name, mistakes = look_at_mistakes(
        find_subject(options.model), options.out, options.split, options.data, options.count
    )
    for found in mistakes:
        say(f"  {found.name}  {found.said} {found.probability:.1%}, true: {found.truth}")
    say(f"{name}: {len(mistakes) or 'no'} mistakes, the surest first")
    say(f"written: {options.out / 'mistakes.png'}, {options.out / 'mistakes.json'}")
