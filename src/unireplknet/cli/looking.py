"""``inspect``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from unireplknet.cli.console import Parser, ViewParser, first_line, say
from unireplknet.errors import UserError
from unireplknet.registry import VIEWS


def inspect(words: list[str]) -> None:
    """Look into a network: how far it sees, its kernels, its stages, what a decision rests on, its mistakes."""
    parser = Parser("inspect", first_line(inspect))
    views = parser.add_subparsers(
        dest="view", required=True, metavar="VIEW", prog="unireplknet inspect", parser_class=ViewParser
    )
    for name, add in VIEWS.usable():
        add(views.add_parser(name, help=first_line(add), description=first_line(add)))
    options = parser.parse_args(words)
    options.show(options)


def inspect_field(parser: argparse.ArgumentParser) -> None:
    """Effective receptive fields of several networks side by side."""
    parser.add_argument("models", metavar="MODEL", nargs="+", help="run folders, or networks that timm knows")
    parser.add_argument("--kernels", metavar="K", type=int, nargs="+", default=[], help="large kernels to compare")
    parser.add_argument(
        "--images", metavar="FOLDER", default="", help="default: a run's val samples, or random numbers"
    )
    parser.add_argument("--count", type=int, default=16, help="images to average over (default: 16; RepLKNet: 50)")
    parser.add_argument("--size", type=int, default=512, help="pixels of their side (default: 512; RepLKNet: 1024)")
    parser.add_argument("--data", metavar="PATH", default="", help="where a run's data lie now, if they have moved")
    add_common(parser, _show_field)


def inspect_kernels(parser: argparse.ArgumentParser) -> None:
    """The Dilated Reparam Block's branches as the sparse kernels they equal, and their sum."""
    parser.add_argument("model", metavar="MODEL", help="a run folder (before and after training), or a variant")
    parser.add_argument("--all", action="store_true", help="draw every block, not the first one of each stage")
    add_common(parser, _show_kernels)


def add_common(parser: argparse.ArgumentParser, show: Callable[[argparse.Namespace], None]) -> None:
    """Add what every view of a network has.

    Args:
        parser: The parser of the view.
        show: Shows it.
    """
    parser.add_argument("--pretrained", action="store_true", help="download the weights of networks that timm knows")
    add_out(parser, show)


def add_out(parser: argparse.ArgumentParser, show: Callable[[argparse.Namespace], None]) -> None:
    """Add where the pictures go.

    Args:
        parser: The parser of the view.
        show: Shows it.
    """
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
