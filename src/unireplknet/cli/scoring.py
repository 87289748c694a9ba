"""``evaluate`` and ``predict``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unireplknet.cli.console import Parser, first_line, say
from unireplknet.registry import TASKS

if TYPE_CHECKING:
    from unireplknet.tasks.base import Evaluation
    from unireplknet.training.run import Run


def evaluate(words: list[str]) -> None:
    """Score a run on a split of its data: accuracy, mean IoU, AP or errors, as its task has it."""
    run, options = _parse("evaluate", first_line(evaluate), words)
    run.path.mkdir(exist_ok=True)  # a file's results go beside it
    show(run.recipe.task.evaluate(run, options.pop("split"), options.pop("data"), options))


def show(evaluation: Evaluation) -> None:
    """Say the scores of a run."""
    for line in evaluation.lines:
        say(line)
    if unreadable := evaluation.summary.get("unreadable"):
        say(f"{len(unreadable)} unreadable samples were left out")
    say(f"written: {', '.join(map(str, evaluation.files))}")


def predict(words: list[str]) -> None:
    """Use a trained run on files: name their classes, segment them, find objects, or forecast what follows."""
    run, options = _parse("predict", first_line(predict), words)
    form = options.pop("format")
    predictions = run.recipe.task.predict(run, options.pop("files"), options)
    if form == "json":
        say(json.dumps([asdict(p) for p, _ in predictions], indent=2, ensure_ascii=False, default=str))
        return
    for _, line in predictions:
        say(line)


def _parse(command: str, description: str, words: Sequence[str]) -> tuple[Run, dict[str, Any]]:
    """The run that a command names, and its options, among them those of the run's task and of no other."""
    parser = Parser(command, description)
    parser.add_argument("run", metavar="RUN", help="a run folder, or a file that export made of one")
    if command == "predict":
        parser.add_argument("files", metavar="FILE", nargs="+", help="files, or folders of files")
    _add_options(parser, command)
    if path := _find_run(command, words):
        run = _open_run_or_file(path)
        run.recipe.task.add_options(parser, command)
    else:
        parser.epilog = f"{parser.prog} RUN --help also lists the options of the run's task"
    options = vars(parser.parse_args(words))  # --help leaves here, and a command without a run
    del options["run"]
    return run, options


def _add_options(parser: Parser, command: str) -> None:
    """The options that there are for every task."""
    if command == "predict":
        parser.add_argument("--format", choices=("table", "json"), default="table", help="default: table")
    else:
        parser.add_argument("--split", choices=("train", "val", "test"), default="", help="default: test, else val")
        parser.add_argument(
            "--data", metavar="PATH", default="", help="where the data lie now, if they have moved; a file needs it"
        )


def _find_run(command: str, words: Sequence[str]) -> str:
    """The RUN among the words of a command, which may follow options of any task; empty where there is none."""
    parser = Parser(command, "", conflict_handler="resolve")
    parser.add_argument("words", nargs="*")
    _add_options(parser, command)
    for _, task in TASKS.usable():
        task().add_options(parser, command)
    plain = [word for word in words if word not in ("-h", "--help")]
    return next(iter(parser.parse_known_intermixed_args(plain)[0].words), "")


def _open_run_or_file(path: str) -> Run:
    from unireplknet.training.run import Run

    if not Path(path).is_file():
        return Run.open(path)
    from unireplknet.deploy.exported import Exported

    return Exported.open(path)
