"""What the sections of a report are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unireplknet.inspection import Subject, find_subject
from unireplknet.tasks.classify.score import Scores, choose_split, evaluation_file, score_split
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run


@dataclass(frozen=True)
class Material:
    """What the sections are made of.

    Attributes:
        run: The run.
        asked: The split to score; "" for test, or val where there is none.
        path: Where the data lie now, if they have moved.
        folder: Where pictures may be drawn before they go into the page.
    """

    run: Run
    asked: str
    path: str
    folder: Path

    @cached_property
    def recipe(self) -> Recipe:
        """The settings of the run."""
        return self.run.recipe

    @cached_property
    def results(self) -> dict[str, Any]:
        """What results.json holds."""
        return self.run.results

    @cached_property
    def epochs(self) -> list[dict[str, str]]:
        """The rows of metrics.csv; none before the first epoch is over."""
        return self.run.rows() if (self.run.path / "metrics.csv").exists() else []

    @cached_property
    def data(self) -> Any:
        """The data of the run; a UserError where they are not at hand."""
        return self.run.load_data(self.path)

    @cached_property
    def split(self) -> str:
        """The name of the split to score."""
        return choose_split(self.run, self.data, self.asked)

    @cached_property
    def subject(self) -> Subject:
        """The network of the run."""
        return find_subject(str(self.run.path))

    @cached_property
    def scores(self) -> Scores:
        """What the network says of the split, where it classifies."""
        return score_split(self.run, self.data.splits[self.split])

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """What ``evaluate`` wrote of the split; it is done anew unless it is of this checkpoint."""
        from unireplknet.tasks.detect import score as detect
        from unireplknet.tasks.forecast import score as forecast
        from unireplknet.tasks.segment import score as segment

        if self.recipe.task == "classification":
            return {"split": self.split} | self.scores.summary(self.run.classes)
        tasks: dict[str, Any] = {"forecasting": forecast, "segmentation": segment, "detection": detect}
        kind = segment.Look.of(self.recipe).kind if self.recipe.task == "segmentation" else ""
        file = evaluation_file(self.run, self.split, kind)
        if not file.exists() or file.stat().st_mtime < (self.run.path / "best.ckpt").stat().st_mtime:
            tasks[self.recipe.task].evaluate(self.run, self.split, self.path)
        return json.loads(file.read_text(encoding="utf-8"))
