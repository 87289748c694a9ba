"""Forecasts beside what happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unireplknet.insight.figure import new_figure

MOST = 6  # more stations than this would only be smudges


def draw_errors(
    errors: Mapping[str, np.ndarray],
    targets: Sequence[str],
    units: Sequence[str],
    step: np.timedelta64,
    picture: Path,
) -> None:
    """Draw mean absolute errors over the lead time, a panel for each variable.

    Args:
        errors: By forecast, shape (horizon, targets); the first one is drawn strongest and decides the scale.
        targets: Names of the variables.
        units: Their units, "" where unknown.
        step: Time between two rows.
        picture: The PNG file to write.
    """
    figure = new_figure(5 * len(targets), 3.8)
    panels = figure.subplots(1, len(targets), squeeze=False)[0]
    for place, (axes, target, unit) in enumerate(zip(panels, targets, units, strict=True)):
        for number, (name, values) in enumerate(errors.items()):
            hours = np.arange(1, len(values) + 1) * (step / np.timedelta64(1, "h"))
            style = {"color": "black", "linewidth": 2.5} if number == 0 else {"linewidth": 1.2}
            axes.plot(hours, values[:, place], label=name, **style)
        top = 2 * max(next(iter(errors.values()))[:, place].max(), 1e-6)
        axes.set(title=target, xlabel="hours ahead", ylabel=_axis("mean absolute error", unit), ylim=(0, top))
        axes.grid(alpha=0.3)
        if off := [name for name, values in errors.items() if values[:, place].min() > top]:
            axes.text(
                0.02, 0.97, f"off the scale: {', '.join(off)}", transform=axes.transAxes, va="top", fontsize="small"
            )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small")
    figure.savefig(picture, dpi=110)


def draw_windows(
    past: np.ndarray,
    truth: np.ndarray,
    forecasts: Mapping[str, np.ndarray],
    times: np.ndarray,
    step: np.timedelta64,
    station: str,
    targets: Sequence[str],
    units: Sequence[str],
    picture: Path,
) -> None:
    """Draw windows of one station: what was seen, what was foretold, what came.

    Args:
        past: Shape (N, L, targets).
        truth: Shape (N, horizon, targets).
        forecasts: By name, shape (N, horizon, targets); the first one is drawn strongest.
        times: Time of the first target of each window, shape (N,).
        step: Time between two rows.
        station: Its name.
        targets: Names of the variables.
        units: Their units, "" where unknown.
        picture: The PNG file to write.
    """
    figure = new_figure(4.2 * len(times), 2.6 * len(targets) + 0.6)
    hour = step / np.timedelta64(1, "h")
    before = (np.arange(past.shape[1]) - past.shape[1] + 1) * hour
    after = np.arange(1, truth.shape[1] + 1) * hour
    grid = figure.subplots(len(targets), len(times), squeeze=False)
    for row, (target, unit) in enumerate(zip(targets, units, strict=True)):
        for column, axes in enumerate(grid[row]):
            joined = np.concatenate([past[column, :, row], truth[column, :, row]])
            axes.plot(np.concatenate([before, after]), joined, color="tab:gray", label="measured")
            for number, (name, values) in enumerate(forecasts.items()):
                style = {"color": "black", "linewidth": 2} if number == 0 else {"linewidth": 1, "linestyle": "--"}
                axes.plot(after, values[column, :, row], label=name, **style)
            axes.axvline(hour / 2, color="tab:gray", linewidth=0.8, linestyle=":")
            axes.grid(alpha=0.3)
            if row == 0:
                axes.set_title(f"{station}, from {times[column]}", fontsize="small")
            if row == len(targets) - 1:
                axes.set_xlabel("hours")
        grid[row, 0].set_ylabel(_axis(target, unit))
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(picture, dpi=110)


def draw_forecast(
    past_times: np.ndarray,
    past: np.ndarray,
    times: np.ndarray,
    forecast: np.ndarray,
    stations: Sequence[str],
    targets: Sequence[str],
    units: Sequence[str],
    seen: np.ndarray | None,
    picture: Path,
) -> None:
    """Draw a forecast of what is not known yet, and the map that the network saw of the window before it.

    Args:
        past_times: Shape (L,).
        past: Shape (L, stations, targets).
        times: Shape (horizon,).
        forecast: Shape (horizon, stations, targets).
        stations: Names of the stations; the first few are drawn.
        targets: Names of the variables.
        units: Their units, "" where unknown.
        seen: The map of the first stations, shape (H, W), where it is known.
        picture: The PNG file to write.
    """
    figure = new_figure(11, 2.6 * len(targets) + 0.4)
    plots, side = (figure, None) if seen is None else figure.subfigures(1, 2, width_ratios=(3, 1))
    for row, (axes, target, unit) in enumerate(
        zip(plots.subplots(len(targets), 1, sharex=True, squeeze=False)[:, 0], targets, units, strict=True)
    ):
        for number, station in enumerate(stations[:MOST]):
            (line,) = axes.plot(past_times, past[:, number, row], linewidth=1, label=station)
            axes.plot(times, forecast[:, number, row], linewidth=2, linestyle="--", color=line.get_color())
        axes.set_ylabel(_axis(target, unit))
        axes.grid(alpha=0.3)
        _short_dates(axes)
        if row == 0:
            axes.legend(fontsize="small", ncols=3)
            axes.set_title(f"measured, and forecast (dashed) from {times[0]}", fontsize="medium")
    if seen is not None and side is not None:
        axes = side.subplots()
        axes.imshow(seen, cmap="viridis", interpolation="nearest")
        axes.set_title(f"map, {seen.shape[0]} x {seen.shape[1]}", fontsize="medium")
        axes.set_axis_off()
    figure.savefig(picture, dpi=110)


def _short_dates(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _axis(name: str, unit: str) -> str:
    return f"{name}, {unit}" if unit else name
