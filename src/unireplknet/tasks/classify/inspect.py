"""What ``inspect`` shows of networks that classify."""

from __future__ import annotations

import argparse

from unireplknet.cli.console import say
from unireplknet.cli.looking import add_common, add_out
from unireplknet.errors import UserError


def inspect_stages(parser: argparse.ArgumentParser) -> None:
    """What each stage makes of one file."""
    parser.add_argument("model", metavar="MODEL", help="a run folder, or a network that timm knows")
    parser.add_argument("file", metavar="FILE")
    add_common(parser, _show_stages)


def inspect_attribution(parser: argparse.ArgumentParser) -> None:
    """Which parts of a file speak for its class (red) and which against it (blue)."""
    parser.add_argument("model", metavar="RUN", help="a run folder")
    parser.add_argument("files", metavar="FILE", nargs="+", help="files, or folders of files")
    parser.add_argument("--label", metavar="CLASS", default="", help="default: the class that the network says")
    add_common(parser, _show_attribution)


def inspect_confusion(parser: argparse.ArgumentParser) -> None:
    """Which classes a run takes for which."""
    _add_scored(parser)
    add_out(parser, _show_confusion)


def inspect_mistakes(parser: argparse.ArgumentParser) -> None:
    """The samples that a run takes for another class, as it saw them, the surest first."""
    _add_scored(parser)
    parser.add_argument("--count", type=int, default=24, help="how many at most (default: 24)")
    add_out(parser, _show_mistakes)


def _add_scored(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help="a run folder")
    parser.add_argument("--split", choices=("train", "val", "test"), default="", help="default: test, else val")
    parser.add_argument("--data", metavar="PATH", default="", help="where the run's data lie now, if they have moved")


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
