"""``export``."""

from __future__ import annotations

from pathlib import Path

from unireplknet.cli.console import Parser, first_line, say


def export(words: list[str]) -> None:
    """Write a run as a file for another runtime: merged, compared with the run, self-describing."""
    from unireplknet.deploy.describe import LICENCE
    from unireplknet.deploy.exported import CALIBRATION, export_run
    from unireplknet.deploy.targets import TARGETS, TOLERANCES

    parser = Parser("export", first_line(export))
    parser.add_argument("run", metavar="RUN", help="a run folder")
    parser.add_argument("--to", choices=TARGETS, default="onnx", help="default: onnx")
    parser.add_argument("--precision", choices=TOLERANCES, default="fp32", help="default: fp32; int8 needs the data")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: model.onnx or the like in the run folder")
    parser.add_argument("--license", default=LICENCE, help=f"what the file says of its licence (default: {LICENCE})")
    parser.add_argument("--data", metavar="PATH", default="", help="where the data lie now, if they have moved")
    parser.add_argument(
        "--calibration",
        metavar="N",
        type=int,
        default=CALIBRATION,
        help=f"training samples to find the ranges of 8-bit numbers by (default: {CALIBRATION})",
    )
    options = parser.parse_args(words)

    from unireplknet.training.run import Run

    run = Run.open(options.run)
    settings = (options.out, options.to, options.precision, options.license, options.data, options.calibration)
    for line in export_run(run, *settings).lines():
        say(line)
