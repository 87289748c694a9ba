"""Forecasting: what is learnt, scores beside baselines, and forecasts from files."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unireplknet.data.files import distinct_stems, find_inputs
from unireplknet.data.series.grid import Grid
from unireplknet.errors import UserError
from unireplknet.tasks.forecast.baselines import REFITTED, Forecast, first_times, learned_baselines, simple_baselines
from unireplknet.tasks.forecast.data import WindowSplit
from unireplknet.tasks.forecast.draw import draw_errors, draw_forecast, draw_windows
from unireplknet.tasks.scoring import best_device, choose_split, write_evaluation
from unireplknet.training.loader import build_loader
from unireplknet.training.run import Run

logger = logging.getLogger(__name__)

MODEL = "UniRepLKNet"
LINEAR = f"{MODEL}, its linear part alone"


@dataclass
class Errors:
    """Sums of errors over windows and stations, by lead time and target; what was not measured is left out.

    Attributes:
        square: Squared errors, shape (horizon, targets).
        absolute: Absolute errors, likewise.
        count: Numbers that were measured, likewise.
    """

    square: np.ndarray
    absolute: np.ndarray
    count: np.ndarray

    @staticmethod
    def of(forecast: np.ndarray, truth: np.ndarray) -> Errors:
        """Errors of a batch; both have the shape (B, horizon, stations, targets)."""
        error = np.where(np.isnan(truth), 0, forecast - truth).astype(np.float64)
        return Errors(np.square(error).sum((0, 2)), np.abs(error).sum((0, 2)), (~np.isnan(truth)).sum((0, 2)))

    def __add__(self, other: Errors) -> Errors:
        return Errors(self.square + other.square, self.absolute + other.absolute, self.count + other.count)

    @property
    def mse(self) -> np.ndarray:
        """Mean squared error of each target."""
        return self.square.sum(0) / self.count.sum(0)

    @property
    def mae(self) -> np.ndarray:
        """Mean absolute error of each target."""
        return self.absolute.sum(0) / self.count.sum(0)

    @property
    def mae_by_lead(self) -> np.ndarray:
        """Mean absolute error by lead time, shape (horizon, targets)."""
        return self.absolute / np.maximum(self.count, 1)


@dataclass(frozen=True)
class ForecastScores:
    """What a forecaster and the baselines came to on a split.

    Attributes:
        errors: By name: the network first.
        targets: Names of the variables.
        units: Their units, "" where unknown.
        windows: Number of windows.
        left_out: Windows that were left out for their gaps.
    """

    errors: dict[str, Errors]
    targets: tuple[str, ...]
    units: tuple[str, ...]
    windows: int
    left_out: int

    def summary(self) -> dict[str, Any]:
        """MSE and MAE in physical units, as plain numbers."""
        first = next(iter(self.errors.values()))
        measured = dict(zip(self.targets, first.count.sum(0).tolist(), strict=True))
        return {
            "windows": self.windows,
            "windows_left_out": self.left_out,
            "numbers_scored": measured,
            "units": dict(zip(self.targets, self.units, strict=True)),
            "scores": {
                name: {
                    target: {"mse": float(e.mse[i]), "mae": float(e.mae[i])} for i, target in enumerate(self.targets)
                }
                for name, e in self.errors.items()
            },
        }

    def table(self) -> list[str]:
        """The scores as lines for people: a column of MSE and MAE for each target."""
        width = max(map(len, self.errors))
        heads = [f"{t}{f' ({u})' if u else ''}: MSE, MAE" for t, u in zip(self.targets, self.units, strict=True)]
        lines = [f"{'':{width}}  " + "  ".join(f"{head:>24}" for head in heads)]
        for name, e in self.errors.items():
            cells = (f"{f'{mse:.3f}  {mae:.3f}':>24}" for mse, mae in zip(e.mse, e.mae, strict=True))
            lines.append(f"{name:{width}}  " + "  ".join(cells))
        return lines


def evaluate(run: Run, name: str = "", path: str = "", learned: bool = True) -> tuple[str, ForecastScores]:
    """Score the best epoch of a run and the baselines on the same windows, and write the outcome into the run folder.

    Args:
        run: The run.
        name: "train", "val" or "test"; by default test, or val where the data have no test split.
        path: Where the data lie now, if they have moved.
        learned: Whether to fit the baselines that learn, which takes longer than to score the network.

    Returns:
        The name of the split and the scores. ``evaluation-NAME.json`` holds them, ``errors-NAME.png`` shows them by
        lead time, ``forecasts-NAME.png`` shows some windows.

    Raises:
        UserError: There is no such split.
    """
    data, recipe = run.load_data(path), run.recipe
    name = choose_split(run, data, name)
    split: WindowSplit = data.splits[name]
    known = [data.splits[n] for n in (("train", "val") if name == "test" else ("train",))]
    model = run.load_model().to(best_device())
    forecasts = {MODEL: _forecasts(model)} | simple_baselines(known)
    if getattr(model, "linear", None) is not None:  # an exported file does not tell its parts
        forecasts[LINEAR] = _forecasts(model.linear_forecast)
    if learned:
        forecasts |= learned_baselines(known, data.splits["val"], recipe.input.to_map)
    errors = _score(forecasts, build_loader(recipe, split), split)
    targets = tuple(split.grid.variables[i] for i in split.targets)
    units = recipe.input.units or ("",) * len(targets)  # type: ignore[attr-defined]
    scores = ForecastScores(errors, targets, units, len(split), split.left_out)
    write_evaluation(run, name, scores.summary())
    leads = {n: e.mae_by_lead for n, e in errors.items() if not n.endswith(REFITTED)}
    draw_errors(leads, targets, units, split.grid.step, run.path / f"errors-{name}.png")
    _draw_some(split, recipe.input.to_map, forecasts, (targets, units), run.path / f"forecasts-{name}.png")
    return name, scores


def _forecasts(model: Callable[[Tensor], Tensor]) -> Forecast:
    @torch.inference_mode()
    def forecast(windows: np.ndarray, times: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(windows).to(best_device())).float().cpu().numpy()

    return forecast


def _score(forecasts: dict[str, Any], loader: Any, split: WindowSplit) -> dict[str, Errors]:
    errors: dict[str, Errors] = {}
    for batch in loader:
        windows, truth = batch.maps.numpy(), batch.labels.numpy()
        times = first_times(split, batch.indices.tolist())
        for name, forecast in forecasts.items():
            error = Errors.of(forecast(windows, times), truth)
            errors[name] = errors[name] + error if name in errors else error
    return errors


def errors_of(model: Any, run: Run, split: WindowSplit) -> Errors:
    """What a network comes to on a split, without baselines and files."""
    return _score({MODEL: _forecasts(model.to(best_device()))}, build_loader(run.recipe, split), split)[MODEL]


def _draw_some(
    split: WindowSplit,
    to_map: Any,
    forecasts: dict[str, Forecast],
    labels: tuple[Sequence[str], Sequence[str]],
    picture: Path,
    count: int = 3,
) -> None:
    """Draw evenly spaced windows of the first station."""
    chosen = np.linspace(0, len(split) - 1, count + 2).round().astype(int)[1:-1]
    windows = np.stack([to_map(split[i]).numpy() for i in chosen])
    times = first_times(split, chosen)
    shown = (MODEL, "persistence", "same hour yesterday")
    lines = {name: forecasts[name](windows, times)[:, :, 0] for name in shown}
    past = windows[:, list(split.targets)][..., 0].transpose(0, 2, 1)
    truth = np.stack([split.label(i).numpy()[:, 0] for i in chosen])
    draw_windows(past, truth, lines, times, split.grid.step, split.grid.stations[0], *labels, picture=picture)


@dataclass(frozen=True)
class Prediction:
    """The forecast from one file.

    Attributes:
        file: The file.
        table: CSV file with a line for each time and station; None where there is no forecast.
        picture: PNG file of it.
        problem: Why there is no forecast.
    """

    file: str
    table: Path | None
    picture: Path | None
    problem: str = ""


def predict(run: Run, paths: Sequence[str | Path]) -> list[Prediction]:
    """Forecast what follows the last rows of CSV files.

    Args:
        run: The run.
        paths: Files with the columns and stations of the training data, or folders of such files.

    Returns:
        One prediction a file. ``forecast-FILE.csv`` and ``forecast-FILE.png`` in the run folder hold the forecasts.
        The picture shows the map that the network saw, but not of an exported file, which does not give it.

    Raises:
        UserError: A path does not exist, or there is no forecast from any file.
    """
    files = find_inputs(paths, (".csv",))
    model = run.load_model()
    run.path.mkdir(exist_ok=True)
    predictions = []
    for file, stem in zip(files, distinct_stems(files), strict=True):
        try:
            predictions.append(_predict_file(run, model, file, stem))
        except UserError as error:
            predictions.append(Prediction(str(file), None, None, str(error)))
    if all(p.problem for p in predictions):
        raise UserError(predictions[0].problem)
    return predictions


def _predict_file(run: Run, model: Any, file: Path, stem: str) -> Prediction:
    inputs: Any = run.recipe.input
    grid: Grid = inputs.read_grid(file)
    if grid.stations != run.names:
        raise UserError(f"{file} has the stations {', '.join(grid.stations)}; expected {', '.join(run.names)}")
    window = grid.last(inputs.past, file)
    map = inputs.to_map(window)[None]
    if missing := int(np.isnan(window.values).sum()):
        text = "%s: %d of %d numbers of the last %d times are missing"
        logger.warning(text, file, missing, window.values.size, inputs.past)
    with torch.inference_mode():
        forecast = model(map)[0].numpy()
        seen = model.to_maps(map)[0, 0].numpy() if hasattr(model, "to_maps") else None
    times = window.times[-1] + np.arange(1, inputs.horizon + 1) * grid.step
    numbers = inputs.forecaster()["targets"]
    targets = tuple(grid.variables[i] for i in numbers)
    table, picture = (run.path / f"forecast-{stem}.{ending}" for ending in ("csv", "png"))
    with table.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow((inputs.time, inputs.station or "station", *targets))
        for row, time in zip(forecast, times, strict=True):
            for station, values in zip(grid.stations, row, strict=True):
                writer.writerow((f"{time}Z", station, *(f"{value:.4g}" for value in values)))
    units = inputs.units or ("",) * len(targets)
    past = window.values[..., numbers]
    draw_forecast(window.times, past, times, forecast, grid.stations, targets, units, seen, picture)
    return Prediction(str(file), table, picture)
