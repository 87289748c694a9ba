"""UniRepLKNet as a forecaster of several stations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unireplknet.data.series.gaps import hold_last
from unireplknet.models.backbone import UniRepLKNet


class Forecaster(nn.Module):
    """The backbone between a learnable embedding of windows and a forecasting head.

    Physical numbers go in and come out: the network standardises by statistics of the training data, which are part of
    its state, normalises each window, and undoes both at the end. Stations are taken ``group`` at a time: each group's
    window is embedded and folded to a 1 x H x W map with H W = L D', and all groups share one network.

    Args:
        backbone: The network, for maps of one channel, without a classifier.
        stations: Number of stations.
        variables: Number of variables V of a window.
        cycles: Number of calendar features K of a time.
        targets: Positions of the variables to foretell.
        past: Rows L of a window.
        horizon: Rows to foretell.
        map_size: Height and width of the map; H W is a multiple of L, and the quotient D' the width of the embedding.
        group: Stations that share a map; 0 for all.
        normalise: What is subtracted from a window and what it is divided by, see ``ForecastInput``.
        linear: Whether the network learns what a linear forecast leaves: see :meth:`fit_linear`.
        drop: Dropout of the numbers of a window before they are embedded; the linear forecast sees all.

    Raises:
        ValueError: The stations cannot be divided into groups of that size.

    Source:
        Section 3.3 of the paper; window normalisation and embedding as in appendix and code for Global Temperature.
    """

    num_classes: ClassVar[int] = 0  # for load_weights, which adapts classifiers
    half_precision_part: ClassVar[str] = "backbone"  # physical numbers, such as pressures, are beyond half precision

    mean: Tensor
    std: Tensor
    change: Tensor
    coordinates: Tensor

    def __init__(
        self,
        backbone: UniRepLKNet,
        stations: int,
        variables: int,
        cycles: int,
        targets: Sequence[int],
        past: int,
        horizon: int,
        map_size: tuple[int, int],
        group: int = 0,
        normalise: str = "mean",
        linear: bool = True,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        self.group = group or stations
        if stations % self.group:
            raise ValueError(f"{stations} stations cannot be divided into groups of {self.group}")
        self.variables, self.targets = variables, list(targets)
        self.past, self.horizon = past, horizon
        self.normalise = normalise
        self.register_buffer("mean", torch.zeros(variables))
        self.register_buffer("std", torch.ones(variables))
        self.register_buffer("change", torch.ones(variables))
        self.register_buffer("coordinates", torch.zeros(stations, 2))

        embed_dim = map_size[0] * map_size[1] // past
        channels = self.group * variables
        self.embedding = nn.Conv1d(2 * channels, embed_dim, 3)
        self.embed_place = nn.Linear(2 * self.group, embed_dim, bias=False)
        self.embed_time = nn.Linear(cycles, embed_dim, bias=False) if cycles else None
        self.drop = nn.Dropout(drop)
        self.map_size = map_size
        self.backbone = backbone
        outputs = horizon * self.group * len(self.targets)
        known = 2 * channels + 2 * self.group + cycles
        self.head = nn.Linear(backbone.head_hidden_size + known, outputs)
        inputs = known + channels * past + known * cycles
        self.linear = nn.Linear(inputs, outputs).requires_grad_(False) if linear else None
        for layer in (self.head, self.linear):
            for parameter in layer.parameters() if layer else ():
                nn.init.zeros_(parameter)

    def set_statistics(self, mean: Tensor, std: Tensor, change: Tensor, coordinates: np.ndarray | None = None) -> None:
        """Take over what is known of the training data.

        Args:
            mean: Mean of each variable, shape (V,).
            std: Standard deviation of each variable, shape (V,).
            change: Root mean square of its change over the horizon, shape (V,).
            coordinates: Latitude and longitude of each station in degrees, shape (stations, 2).
        """
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.change.copy_(change)
        if coordinates is not None:
            places = torch.as_tensor(coordinates)
            spread, centre = torch.std_mean(places, 0, correction=0)
            self.coordinates.copy_((places - centre) / spread.clamp_min(1e-6))

    @property
    def merged(self) -> bool:
        """Whether the backbone is merged."""
        return self.backbone.merged

    def reparameterize(self) -> Forecaster:
        """Merge the backbone's branches and norms, in place; see :meth:`UniRepLKNet.reparameterize`."""
        self.backbone.reparameterize()
        return self

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the backbone's blocks in the backward pass instead of keeping their activations."""
        self.backbone.set_grad_checkpointing(enable)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Groups of parameters for layer-wise learning-rate decay; the embedding goes with the stem."""
        groups = self.backbone.group_matcher(coarse)
        inside = lambda pattern: pattern.replace("^", r"^backbone\.")  # noqa: E731
        blocks = groups["blocks"]
        blocks = inside(blocks) if isinstance(blocks, str) else [(inside(p), order) for p, order in blocks]
        return {"stem": rf"^embed|{inside(groups['stem'])}", "blocks": blocks}

    @property
    def window_shape(self) -> tuple[int, int, int]:
        """Shape of a window: V + K, L, stations."""
        cycles = self.embed_time.in_features if self.embed_time else 0
        return self.variables + cycles, self.past, len(self.coordinates)

    @property
    def forecast_shape(self) -> tuple[int, int, int]:
        """Shape of a forecast: horizon, stations, targets."""
        return self.horizon, len(self.coordinates), len(self.targets)

    @property
    def unit(self) -> Tensor:
        """What one unit of the loss is, shape (targets,): the error of forecasting no change over the horizon.

        Of standard deviations, one year's seasons would make an error of temperature look small beside one of wind.
        """
        return self.change[self.targets]

    def forward(self, x: Tensor) -> Tensor:
        """Forecast.

        Args:
            x: Variables in physical units and calendar, shape (B, V + K, L, stations); NaN where nothing was measured.

        Returns:
            Physical units, shape (B, horizon, stations, targets).
        """
        values, seen, level, spread = self._normalised(x[:, : self.variables])
        features = self.backbone(self._embed(values, seen, x[:, self.variables :, :, 0]))
        known = self._known(x, level, spread)
        out = self.head(torch.cat([features, known], 1))
        if self.linear is not None:
            out = out + self.linear(self._linear_inputs(values, known))
        return self._physical(out, level, spread)

    def linear_forecast(self, x: Tensor) -> Tensor:
        """The forecast without what the network adds, as :meth:`forward`; only where there is a linear part."""
        assert self.linear is not None
        values, _, level, spread = self._normalised(x[:, : self.variables])
        return self._physical(self.linear(self._linear_inputs(values, self._known(x, level, spread))), level, spread)

    def _physical(self, out: Tensor, level: Tensor, spread: Tensor) -> Tensor:
        """Undo the normalisation of (B groups, horizon group targets); shape (B, horizon, stations, targets)."""
        batch, _, _, stations = level.shape  # len() would fix the number of samples in an exported graph
        out = out.view(batch, stations // self.group, self.horizon, self.group, len(self.targets))
        out = out.transpose(1, 2).flatten(2, 3)
        level, spread = (part[:, self.targets].permute(0, 2, 3, 1) for part in (level, spread))
        return (out * spread + level) * self.std[self.targets] + self.mean[self.targets]

    @torch.no_grad()
    def fit_linear(self, windows: Tensor, truth: Tensor, val_windows: Tensor, val_truth: Tensor) -> None:
        """Fit the linear forecast by penalised least squares; training leaves it as it is and learns the rest.

        It sees the window and, so that what follows from a number may depend on the hour, its newest numbers, their
        means and the places times the calendar. It needs few windows and no steps, which the network then has for the
        rest.

        Args:
            windows: As for :meth:`forward`, of the train split.
            truth: Shape (B, horizon, stations, targets), without gaps.
            val_windows: Of the val split, to choose the penalty of each target.
            val_truth: Likewise.
        """
        if self.linear is None:
            return
        x, y = self._linear_problem(windows, truth)
        x_val, y_val = self._linear_problem(val_windows, val_truth)
        x_mean, y_mean = x.mean(0), y.mean(0)
        values, vectors = torch.linalg.eigh((x - x_mean).T @ (x - x_mean))
        rotated = vectors.T @ ((x - x_mean).T @ (y - y_mean))
        best = torch.full((len(self.targets),), torch.inf, dtype=x.dtype)
        for penalty in 10.0 ** torch.arange(-2, 6):
            weight = vectors @ (rotated / (values.clamp_min(0) + penalty)[:, None])
            bias = y_mean - x_mean @ weight
            error = (x_val @ weight + bias - y_val).square().view(-1, len(self.targets)).mean(0)
            better = (error < best).repeat(len(bias) // len(self.targets))
            self.linear.weight[better] = weight.T[better].to(self.linear.weight)
            self.linear.bias[better] = bias[better].to(self.linear.bias)
            best = torch.minimum(best, error)

    def _linear_problem(self, x: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and outputs of the linear forecast, shapes (B groups, inputs) and (B groups, outputs), float64."""
        values, _, level, spread = self._normalised(x[:, : self.variables])
        inputs = self._linear_inputs(values, self._known(x, level, spread))
        level, spread = (part[:, self.targets].permute(0, 2, 3, 1) for part in (level, spread))
        y = ((truth - self.mean[self.targets]) / self.std[self.targets] - level) / spread
        y = y.unflatten(2, (-1, self.group)).transpose(1, 2)
        return inputs.double(), y.reshape(len(inputs), -1).double()

    def _linear_inputs(self, values: Tensor, known: Tensor) -> Tensor:
        window = self._grouped(values)
        channels = window.shape[1]
        level, place_and_cycles = known[:, :channels], known[:, 2 * channels :]
        factors = torch.cat([window[..., -1] + level, window.mean(2) + level, place_and_cycles], 1)
        cycles = place_and_cycles[:, 2 * self.group :]
        products = (factors[:, :, None] * cycles[:, None]).flatten(1)
        return torch.cat([known, window.flatten(1), products], 1)

    def _known(self, x: Tensor, level: Tensor, spread: Tensor) -> Tensor:
        """What a map does not show: what normalising took out, places, and the newest calendar."""
        groups = x.shape[3] // self.group
        cycles = x[:, self.variables :, -1, 0].repeat_interleave(groups, 0)
        places = self.coordinates.view(groups, -1).repeat(x.shape[0], 1)
        return torch.cat([self._grouped(level).flatten(1), self._grouped(spread).flatten(1), places, cycles], 1)

    def to_maps(self, x: Tensor) -> Tensor:
        """What the backbone sees of x: shape (B stations / group, 1, H, W)."""
        values, seen, _, _ = self._normalised(x[:, : self.variables])
        return self._embed(values, seen, x[:, self.variables :, :, 0])

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Windows without their level and spread, which of their numbers were measured, and level and spread.

        The latter two have the shape (B, V, 1, stations). A gap holds the last number before it.
        """
        seen = ~x.isnan()
        z = torch.where(seen, (x - self.mean[:, None, None]) / self.std[:, None, None], 0)
        held = hold_last(z, seen)
        count = seen.sum(2, keepdim=True).clamp_min(1)
        level = z.sum(2, keepdim=True) / count
        spread = (torch.where(seen, z - level, 0).square().sum(2, keepdim=True) / count + 1e-5).sqrt()
        if self.normalise.startswith("last"):
            level = held[:, :, -1:]
        if self.normalise == "none":
            level = torch.zeros_like(level)
        if self.normalise in ("none", "mean-shift", "last-shift"):
            spread = torch.ones_like(spread)
        return (held - level) / spread, seen, level, spread

    def _grouped(self, x: Tensor) -> Tensor:
        """(B, V, L, stations) to (B groups, group V, L)."""
        batch, variables, length, stations = x.shape
        x = x.view(batch, variables, length, stations // self.group, self.group)
        return x.permute(0, 3, 4, 1, 2).flatten(2, 3).flatten(0, 1)

    def _embed(self, values: Tensor, seen: Tensor, cycles: Tensor) -> Tensor:
        """Windows (B, V, L, stations) to maps (B groups, 1, H, W)."""
        rows = torch.cat([self._grouped(self.drop(values)), self._grouped(seen.to(values.dtype))], 1)
        # Rows go round; as a padding mode, that is in few runtimes.
        embedded = self.embedding(torch.cat([rows[..., -1:], rows, rows[..., :1]], 2)).transpose(1, 2)
        groups = values.shape[3] // self.group
        if self.embed_time is not None:
            embedded = embedded + self.embed_time(cycles.transpose(1, 2)).repeat_interleave(groups, 0)
        place = self.embed_place(self.coordinates.view(groups, -1))
        embedded = embedded + place.repeat(values.shape[0], 1)[:, None]
        return embedded.reshape(embedded.shape[0], 1, *self.map_size)


def masked_loss(forecast: Tensor, truth: Tensor, unit: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Sum of the losses of what was measured, and how many numbers that are.

    Args:
        forecast: Shape (B, horizon, stations, targets).
        truth: The same; NaN where nothing was measured.
        unit: What one unit of the loss is, shape (targets,).
        kind: "mse", "mae" or "huber".

    Returns:
        Two numbers.
    """
    seen = ~truth.isnan()
    error = torch.where(seen, (forecast - truth) / unit, 0)
    if kind == "mse":
        loss = error.square()
    elif kind == "mae":
        loss = error.abs()
    else:
        loss = F.huber_loss(error, torch.zeros_like(error), reduction="none")
    return loss.sum(), seen.sum()
