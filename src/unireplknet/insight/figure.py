"""The one place that makes matplotlib figures: no pyplot, so no display and no global state."""

from __future__ import annotations

from typing import Any

from unireplknet.errors import missing_extra


def new_figure(width: float, height: float) -> Any:
    """An empty figure of the given size in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_extra("matplotlib", "plots") from error
    return Figure(figsize=(width, height), layout="constrained")
