"""What the sections of a report are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from unireplknet.inspection import Subject, find_subject
from unireplknet.tasks.scoring import choose_split
from unireplknet.training.recipe import Recipe
from unireplknet.training.run import Run

T = TypeVar("T")


@dataclass(frozen=True)
class Material:
    """What the sections are made of.

    Attributes:
        run: The run.
        asked: The split to score; "" for test, or val where there is none.
        path: Where the data lie now, if they have moved.
        folder: Where pictures may be drawn before they go into the page.
        made: What several sections need, by what makes it.
    """

    run: Run
    asked: str
    path: str
    folder: Path
    made: dict[Callable[[Material], Any], Any] = field(default_factory=dict)

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
    def evaluation(self) -> dict[str, Any]:
        """The scores of the split, as ``evaluate`` writes them."""
        return self.recipe.task.evaluation(self)

    def once(self, make: Callable[[Material], T]) -> T:
        """What a function makes of this, made only the first time."""
        if make not in self.made:
            self.made[make] = make(self)
        return self.made[make]
