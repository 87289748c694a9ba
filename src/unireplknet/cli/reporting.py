"""``report``."""

from __future__ import annotations

from pathlib import Path

from unireplknet.cli.console import Parser, first_line, say
from unireplknet.errors import UserError


def report(words: list[str]) -> None:
    """Write all that can be said of a run as one HTML file."""
    parser = Parser("report", first_line(report))
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: report.html in the run folder")
    parser.add_argument("--split", choices=("train", "val", "test"), default="", help="default: test, else val")
    parser.add_argument("--data", metavar="PATH", default="", help="where the data lie now, if they have moved")
    options = parser.parse_args(words)
    if options.out is not None and (options.out.is_dir() or not options.out.parent.is_dir()):
        raise UserError(f"--out {options.out} cannot be written: expected a file in a folder that exists")

    from unireplknet.report import write_report
    from unireplknet.training.run import Run

    path = write_report(Run.open(options.run), options.out, options.split, options.data)
    say(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB")
