"""A report: what there is to say of a run, as one HTML file that needs nothing else."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

from unireplknet._version import __version__
from unireplknet.cli.console import first_line
from unireplknet.files import write_text
from unireplknet.registry import RECIPES
from unireplknet.report.document import Document
from unireplknet.report.material import Material
from unireplknet.report.sections import headline, make_sections
from unireplknet.training.run import Run

__all__ = ["write_report"]


def write_report(run: Run, out: Path | None = None, split: str = "", data: str = "") -> Path:
    """Write all that can be said of a run as one HTML file: no script, no network, pictures inside.

    Args:
        run: The run, finished or not.
        out: The file; by default ``report.html`` in the run folder. What it held before stays until it is complete.
        split: "train", "val" or "test"; by default test, or val where the data have no test split.
        data: Where the data lie now, if they have moved.

    Returns:
        The file.

    Raises:
        UserError: The folder of the file does not exist, or a library is not installed.
    """
    out = out or run.path / "report.html"
    recipe = run.recipe
    about = first_line(RECIPES[recipe.name]) if recipe.name in RECIPES else f"A network for {recipe.task.name}."
    with tempfile.TemporaryDirectory() as folder:
        material = Material(run, split, data, Path(folder))
        made = f"Made {datetime.now(UTC):%Y-%m-%d %H:%M} UTC by unireplknet {__version__} from {run.path.resolve()}."
        page = Document(f"Run {run.path.resolve().name}", about, headline(material), make_sections(material), made)
    write_text(out, page.html())
    return out
