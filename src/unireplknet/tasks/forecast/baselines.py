"""What a forecast has to beat: forecasts that need no network, on the same windows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from unireplknet.data.series.gaps import hold_last, nan_mean
from unireplknet.tasks.forecast.data import WindowSplit

Forecast = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From windows and times of the first target to forecasts.

Windows have the shape (B, V + K, L, stations), with NaN, in physical units; times (B,); forecasts the shape
(B, horizon, stations, targets).
"""

NUMBERS = 50_000_000
"""Most numbers in the windows that baselines are fitted to; of more windows, evenly spaced ones are taken."""

REFITTED = ", train and val"
"""Ending of the name of a baseline that knows more than the network."""

MOST_INPUTS = 5_000
"""Most numbers that one linear forecast sees."""

ROWS, TREES = 60_000, 200
"""Most rows and trees of gradient boosting."""

ALPHAS = 10.0 ** np.arange(-2, 6)

DAYS = 30
"""Days of the hour-of-day mean."""

Table = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Windows, times of the first target, and truths (B, horizon, stations, targets)."""


def simple_baselines(known: Sequence[WindowSplit]) -> dict[str, Forecast]:
    """Forecasts that learn nothing, by name.

    Args:
        known: The splits that lie before the one to be scored.
    """
    split = known[-1]
    day, targets = split.grid.rows_a_day, list(split.targets)
    return {
        "persistence": lambda x, times: _persistence(x, targets, split.horizon),
        "same hour yesterday": lambda x, times: _yesterday(x, targets, split.horizon, day),
        f"hour-of-day mean of {DAYS} days": _hour_means(known, day),
    }


def learned_baselines(
    known: Sequence[WindowSplit], val: WindowSplit, to_map: Callable[[Any], Any]
) -> dict[str, Forecast]:
    """Fit linear forecasts and trees.

    Args:
        known: The splits that lie before the one to be scored, train first.
        val: Windows to choose hyperparameters with, as the network's epoch is chosen.
        to_map: Makes the windows of splits into arrays.

    Returns:
        The forecasts by name, fitted to train as the network is. Where val is among the known, they come again, fitted
        to train and val together with what was chosen: they know more than the network then.
    """
    first, choice = table(known[0], to_map), table(val, to_map)
    targets, variables, stations = list(val.targets), len(val.grid.variables), len(val.grid.stations)
    learned: dict[str, Ridge | Boosting] = {
        "DLinear": Ridge(targets, variables, 1, own=True),
        "ridge": Ridge(targets, variables, 1),
    }
    if 1 < stations * variables * val.past <= MOST_INPUTS:
        learned["ridge, all stations at once"] = Ridge(targets, variables, stations)
    learned["gradient boosting"] = Boosting(targets, val.grid.rows_a_day)
    for forecast in learned.values():
        forecast.fit(first, choice)
    forecasts: dict[str, Forecast] = {**learned}
    if len(known) > 1:
        windows, times, truth = (np.concatenate([a, b]) for a, b in zip(first, choice, strict=True))
        forecasts |= {name + REFITTED: it.refit((windows, times, truth)) for name, it in learned.items()}
    return forecasts


def table(split: WindowSplit, to_map: Callable[[Any], Any]) -> Table:
    """The windows of a split as arrays; evenly spaced ones where there are too many."""
    chosen = range(0, len(split), -(-len(split) * split.past * split.grid.values[0].size // NUMBERS))
    windows = np.stack([np.asarray(to_map(split[i])) for i in chosen])
    truth = np.stack([split.label(i).numpy() for i in chosen])
    return windows, first_times(split, chosen), truth


def first_times(split: WindowSplit, indices: Iterable[int]) -> np.ndarray:
    """Time of the first target of windows."""
    return split.grid.start + split.origins[np.fromiter(indices, np.int64)] * split.grid.step


def _persistence(x: np.ndarray, targets: Sequence[int], horizon: int) -> np.ndarray:
    newest = filled(x[:, targets])[:, :, -1]
    return np.repeat(newest.transpose(0, 2, 1)[:, None], horizon, 1)


def _yesterday(x: np.ndarray, targets: Sequence[int], horizon: int, day: int) -> np.ndarray:
    past = filled(x[:, targets])[:, :, -day:]
    place = np.arange(horizon) % past.shape[2]
    return past[:, :, place].transpose(0, 2, 3, 1)


def _hour_means(known: Sequence[WindowSplit], day: int) -> Forecast:
    """Mean of each hour of the day over the last days before the split to be scored."""
    split = known[-1]
    rows = np.concatenate([part.measurements() for part in known])[-DAYS * day :][..., list(split.targets)]
    end = split.grid.start + split.end * split.grid.step
    slots = _slot(end - np.arange(len(rows), 0, -1) * split.grid.step, split.grid.step, day)
    overall = nan_mean(rows, 0, empty=np.nan)
    means = np.stack([nan_mean(rows[slots == slot], 0, empty=np.nan) for slot in range(day)])
    means = np.where(np.isnan(means), overall, means)

    def forecast(x: np.ndarray, times: np.ndarray) -> np.ndarray:
        ahead = times[:, None] + np.arange(split.horizon) * split.grid.step
        return means[_slot(ahead, split.grid.step, day)]

    return forecast


def _slot(times: np.ndarray, step: np.timedelta64, day: int) -> np.ndarray:
    return ((times - times.astype("M8[D]")) // step) % day


def filled(x: np.ndarray) -> np.ndarray:
    """Fill the gaps of (B, V, L, stations) by :func:`hold_last`; with 0 where nothing was measured."""
    return hold_last(torch.from_numpy(np.nan_to_num(x)), torch.from_numpy(~np.isnan(x))).numpy()


def without_gaps(x: np.ndarray, y: np.ndarray, targets: Sequence[int]) -> np.ndarray:
    """Truths whose gaps hold the last measurement before, for baselines that take no gaps."""
    joined = np.concatenate([x[:, targets], y.transpose(0, 3, 1, 2)], 2)
    return filled(joined)[:, :, x.shape[2] :].transpose(0, 2, 3, 1)


class Ridge:
    """Linear forecasts, the penalty chosen on the val split.

    Args:
        targets: Positions of the variables to foretell.
        variables: Number of variables V.
        group: Stations that are foretold from one another.
        own: Whether each variable is foretold from its own window alone, by one matrix for all stations, as a
            difference to its last value. Trend and remainder, into which DLinear parts the window, are linear in it:
            this is DLinear's least-squares solution.
    """

    def __init__(self, targets: Sequence[int], variables: int, group: int, own: bool = False) -> None:
        self.targets, self.variables, self.group, self.own = list(targets), variables, group, own
        self.models: list[Any] = []

    def fit(self, first: Table, choice: Table) -> Ridge:
        """Fit to one table, with the penalty that does best on the other."""
        for number in range(len(self.targets)):
            features, wanted = self._features(choice[0], number), self._outputs(choice[0], choice[2], number)
            models = [self._fitted(number, alpha, first) for alpha in ALPHAS]
            errors = [np.square(model.predict(features) - wanted).mean() for model in models]
            self.models.append(models[int(np.argmin(errors))])
        return self

    def refit(self, everything: Table) -> Ridge:
        """The same forecast fitted to another table."""
        other = Ridge(self.targets, self.variables, self.group, self.own)
        other.models = [self._fitted(n, model[-1].alpha, everything) for n, model in enumerate(self.models)]
        return other

    def _fitted(self, number: int, alpha: float, data: Table) -> Any:
        from sklearn import linear_model
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), linear_model.Ridge(alpha))
        return model.fit(self._features(data[0], number), self._outputs(data[0], data[2], number))

    def __call__(self, x: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Forecast."""
        out = []
        for number, target in enumerate(self.targets):
            y = self.models[number].predict(self._features(x, number)).astype(np.float32)
            y = y.reshape(len(x), x.shape[3] // self.group, -1, self.group).transpose(0, 2, 1, 3)
            y = y.reshape(len(x), -1, x.shape[3])
            out.append(y + filled(x[:, [target]])[:, 0, -1][:, None] if self.own else y)
        return np.stack(out, 3)

    def _features(self, x: np.ndarray, number: int) -> np.ndarray:
        batch, _, length, stations = x.shape
        values = filled(x[:, : self.variables]).astype(np.float64)
        if self.own:
            values = values[:, [self.targets[number]]]
            values = values - values[:, :, -1:]
        values = values.reshape(batch, -1, length, stations // self.group, self.group).transpose(0, 3, 1, 2, 4)
        rows = values.reshape(-1, values.shape[2] * length * self.group)
        if self.own:
            return rows
        cycles = np.repeat(x[:, self.variables :, -1, 0], stations // self.group, 0)
        return np.concatenate([rows, cycles], 1)

    def _outputs(self, x: np.ndarray, y: np.ndarray, number: int) -> np.ndarray:
        y = without_gaps(x, y, self.targets)[..., number]
        if self.own:
            y = y - filled(x[:, [self.targets[number]]])[:, 0, -1][:, None]
        y = y.reshape(len(y), -1, y.shape[2] // self.group, self.group).transpose(0, 2, 1, 3)
        return y.reshape(len(y) * y.shape[1], -1)


class Boosting:
    """Gradient-boosted trees: one model a target for all stations and steps, of differences to the last value.

    The number of trees is chosen on the val split.

    Args:
        targets: Positions of the variables to foretell.
        day: Rows in 24 hours.
    """

    def __init__(self, targets: Sequence[int], day: int) -> None:
        self.targets, self.day = list(targets), day
        self.models: list[Any] = []
        self.trees: list[int] = []
        self.horizon = 0

    def fit(self, first: Table, choice: Table) -> Boosting:
        """Fit to one table, with as many trees as do best on the other."""
        self.horizon = first[2].shape[1]
        for number in range(len(self.targets)):
            model = self._fitted(number, TREES, first)
            features, wanted = self._table(choice, number)
            errors = [np.square(y - wanted).mean() for y in model.staged_predict(features)]
            self.trees.append(int(np.argmin(errors)) + 1)
            self.models.append(self._fitted(number, self.trees[-1], first))
        return self

    def refit(self, everything: Table) -> Boosting:
        """The same forecast fitted to another table."""
        other = Boosting(self.targets, self.day)
        other.horizon = self.horizon
        other.models = [self._fitted(number, trees, everything) for number, trees in enumerate(self.trees)]
        return other

    def _fitted(self, number: int, trees: int, data: Table) -> Any:
        from sklearn.ensemble import HistGradientBoostingRegressor

        model = HistGradientBoostingRegressor(
            max_iter=trees, learning_rate=0.05, l2_regularization=1.0, early_stopping=False, random_state=0
        )
        return model.fit(*self._table(data, number))

    def __call__(self, x: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Forecast."""
        out = []
        for number, target in enumerate(self.targets):
            y = self.models[number].predict(self._features(x, number))
            last = filled(x[:, [target]])[:, 0, -1]
            out.append(y.reshape(len(x), self.horizon, x.shape[3]) + last[:, None])
        return np.stack(out, 3)

    def _table(self, data: Table, number: int) -> tuple[np.ndarray, np.ndarray]:
        every = -(-data[2][..., 0].size // ROWS)
        x, y = data[0][::every], data[2][::every]
        change = (y[..., number] - filled(x[:, [self.targets[number]]])[:, 0, -1][:, None]).reshape(-1)
        known = ~np.isnan(change)
        return self._features(x, number)[known], change[known]

    def _features(self, x: np.ndarray, number: int) -> np.ndarray:
        """Rows of (window, step, station): the step, the newest values, the target's course and its yesterday."""
        batch, _, _, stations = x.shape
        horizon = self.horizon
        values = filled(x)
        own = values[:, self.targets[number]]
        shared = np.concatenate(
            [
                values[:, :, -1],  # all variables and the calendar
                values[:, :, -4],
                (own[:, -1:] - own[:, -self.day :: 3]),
                own.mean(1, keepdims=True),
                own.std(1, keepdims=True),
            ],
            1,
        )
        shared = np.repeat(shared.transpose(0, 2, 1)[:, None], horizon, 1)
        place = np.arange(horizon) % min(self.day, own.shape[1])
        yesterday = own[:, -self.day :][:, place] - own[:, -1:]
        mean = own.mean(2)[:, -1:, None] - own[:, -1:]
        steps = np.broadcast_to(np.arange(horizon)[:, None], (batch, horizon, stations))
        station = np.broadcast_to(np.arange(stations), (batch, horizon, stations))
        extra = [steps, station, yesterday, np.broadcast_to(mean, steps.shape)]
        return np.concatenate([shared, np.stack(extra, 3)], 3).reshape(-1, shared.shape[3] + len(extra))
