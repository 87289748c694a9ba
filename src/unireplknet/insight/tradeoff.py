"""Accuracy against speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

from unireplknet.insight.figure import new_figure

MARKERS = {"eager": "o", "compiled": "s", "onnxruntime": "^", "openvino": "D"}


def draw_tradeoff(result: dict[str, Any], picture: Path | BinaryIO) -> bool:
    """Draw published accuracy against measured speed, a panel for each batch size.

    A colour for each family, a marker for each engine; a line joins the members of a family that one engine runs.

    Args:
        result: What :func:`~unireplknet.deploy.contest.run_contest` returns.
        picture: The PNG file to write.

    Returns:
        Whether there was anything to draw: contenders without a published accuracy have no place in the picture.
    """
    rows = [row for row in result["contenders"] if not row["failure"] and row["published"]]
    if not rows:
        return False
    batches = sorted({row["batch"] for row in rows})
    families = list(dict.fromkeys(_family(row) for row in rows))
    figure = new_figure(2 + 5.5 * len(batches), 5)
    from matplotlib.ticker import LogFormatter  # is there, for new_figure needs it too

    for axes, batch in zip(figure.subplots(1, len(batches), sharey=True, squeeze=False)[0], batches, strict=True):
        shown = [row for row in rows if row["batch"] == batch]
        for family, engine in dict.fromkeys((_family(row), row["engine"]) for row in shown):
            members = [row for row in shown if (_family(row), row["engine"]) == (family, engine)]
            members.sort(key=lambda row: row["published"]["top1"])
            speeds = [row["images_per_second"] for row in members]
            accuracies = [row["published"]["top1"] for row in members]
            style = {"color": f"C{families.index(family)}", "marker": MARKERS.get(engine, "x"), "alpha": 0.8}
            axes.plot(speeds, accuracies, label=f"{family}, {engine}", linewidth=1, **style)
        for name in dict.fromkeys(row["model"] for row in shown):
            fastest = max((r for r in shown if r["model"] == name), key=lambda row: row["images_per_second"])
            where = fastest["images_per_second"], fastest["published"]["top1"]
            axes.annotate(name, where, (7, 0), textcoords="offset points", fontsize="small", va="center")
        axes.set(title=f"batch {batch}", xscale="log", xlabel="measured images/s, at the shortest call")
        axes.margins(x=0.1, y=0.1)
        left, right = axes.get_xlim()
        axes.set_xlim(left, right * (right / left) ** 0.35)  # names stand to the right of their points
        axes.xaxis.set_major_formatter(LogFormatter())
        axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize="x-small")
    figure.axes[0].set_ylabel("published ImageNet-1K top-1, %")
    figure.suptitle(_title(result), fontsize="medium")
    figure.savefig(picture, format="png", dpi=120)
    return True


def _family(row: dict[str, Any]) -> str:
    return row["model"].partition("_")[0]


def _title(result: dict[str, Any]) -> str:
    machine, manner = result["machine"], result["settings"]["manner"]
    where = machine["cpu"] if manner["device"] == "cpu" else machine["device"]
    threads = f", threads: {machine['threads']}" if manner["device"] == "cpu" else ""
    noisy = result["disturbance"]["reasons"] or any(row.get("disturbed") for row in result["contenders"])
    return f"{where}{threads}, {manner['dtype']}, {manner['mode']}, {machine['date']}" + (
        "; the machine was disturbed" if noisy else ""
    )
