"""What 8-bit files lose of what their runs score.

    python benchmarks/int8_runs.py runs/mnist-1 runs/furniture-1

Each run is exported to ONNX and to OpenVINO with the calibration that the command takes by default (training samples
only), and both the run and the files are scored on its val and its test split. Adds to results/int8_runs.json.
"""

import argparse
import importlib.metadata
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from _common import machine

from unireplknet.deploy.exported import CALIBRATION, Exported, export_run
from unireplknet.deploy.targets import TARGETS
from unireplknet.errors import UserError
from unireplknet.training.run import Run

RESULTS = Path(__file__).parent / "results" / "int8_runs.json"
FORMATS = ("onnx", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", metavar="RUN", nargs="+", help="finished runs whose data are at hand")
    parser.add_argument("--calibration", type=int, default=CALIBRATION)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for folder in options.runs:
        run = Run.open(folder)
        results[run.recipe.name] = measure(run, options.calibration)
        RESULTS.write_text(json.dumps(results, indent=2, sort_keys=True) + "\n")
        print(run.recipe.name, json.dumps(results[run.recipe.name], indent=2), flush=True)


def _scores(run: Run, model: Any, split: Any) -> dict[str, float]:
    return {name: score.value for name, score in run.recipe.task.measure(model, run, split).items()}


def measure(run: Run, calibration: int) -> dict[str, Any]:
    data = run.load_data()
    splits = {name: data.splits[name] for name in ("val", "test") if name in data.splits}
    packages = ("onnx", "onnxruntime", "openvino", "torch")
    row: dict[str, Any] = {
        "samples": {name: len(split) for name, split in splits.items()},
        "run": {name: _scores(run, run.load_model(), split) for name, split in splits.items()},
        "calibration": calibration,
        "machine": machine(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }
    for to in FORMATS:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"a{TARGETS[to].suffix}"
            try:
                report = export_run(run, file, to, "int8", calibration=calibration)
            except UserError as error:
                row[to] = {"refused": str(error)}
                continue
            model = Exported.open(file).load_model()
            scores = {name: _scores(run, model, split) for name, split in splits.items()}
            row[to] = scores | {
                "lost": {
                    name: {score: round(row["run"][name][score] - value, 6) for score, value in part.items()}
                    for name, part in scores.items()
                },
                "relative_error": report.error,
                "megabytes": report.megabytes,
                "milliseconds_file_and_run": report.milliseconds,
            }
    return row


if __name__ == "__main__":
    main()
