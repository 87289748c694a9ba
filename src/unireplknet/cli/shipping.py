"""``export``."""

from __future__ import annotations

from pathlib import Path

from unireplknet.cli.console import Parser, first_line, say
from unireplknet.errors import UserError


def export(words: list[str]) -> None:
    """Write a run as one file for another runtime: merged, compared with the run, self-describing."""
    parser = Parser("export", first_line(export))
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
