"""UniRepLKNet as a forecaster of several stations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
        normalise: What is subtracted from a window and what it is divided by, see ``SeriesInput``.
        linear: Whether the head sees the window beside the features.
        drop: Dropout after the embedding.

    Raises:
        ValueError: The stations cannot be divided into groups of that size.

    Source:
        Section 3.3 of the paper; window normalisation and embedding as in appendix and code for Global Temperature.
    """

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
        self.normalise, self.linear = normalise, linear
        self.register_buffer("mean", torch.zeros(variables))
        self.register_buffer("std", torch.ones(variables))
        self.register_buffer("change", torch.ones(variables))
        self.register_buffer("coordinates", torch.zeros(stations, 2))

        embed_dim = map_size[0] * map_size[1] // past
        channels = self.group * variables
        self.embedding = nn.Conv1d(2 * channels, embed_dim, 3, padding=1, padding_mode="circular")
        self.embed_place = nn.Linear(2 * self.group, embed_dim, bias=False)
        self.embed_time = nn.Linear(cycles, embed_dim, bias=False) if cycles else None
        self.drop = nn.Dropout(drop)
        self.map_size = map_size
        self.backbone = backbone
        known = 2 * channels + cycles + (channels * past if linear else 0)
        self.head = nn.Linear(backbone.head_hidden_size + known, horizon * self.group * len(self.targets))
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

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
        values, seen, centre, scale = self._normalised(x[:, : self.variables])
        cycles = x[:, self.variables :, :, 0]
        features = self.backbone(self._embed(values, seen, cycles))
        known = [self._grouped(part).flatten(1) for part in (centre, scale)]
        known.append(cycles[:, :, -1].repeat_interleave(values.shape[3] // self.group, 0))
        if self.linear:
            known.append(self._grouped(values).flatten(1))
        out = self.head(torch.cat([features, *known], 1))
        out = out.view(len(x), -1, self.horizon, self.group, len(self.targets)).transpose(1, 2).flatten(2, 3)
        centre, scale = (part[:, self.targets].permute(0, 2, 3, 1) for part in (centre, scale))
        mean, std = self.mean[self.targets], self.std[self.targets]
        return (out * scale + centre) * std + mean

    def to_maps(self, x: Tensor) -> Tensor:
        """What the backbone sees of x: shape (B stations / group, 1, H, W)."""
        values, seen, _, _ = self._normalised(x[:, : self.variables])
        return self._embed(values, seen, x[:, self.variables :, :, 0])

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Windows without their level and spread, which of their numbers were measured, and level and spread.

        The latter two have the shape (B, V, 1, stations). What is missing becomes 0, the level.
        """
        seen = ~x.isnan()
        z = torch.where(seen, (x - self.mean[:, None, None]) / self.std[:, None, None], 0)
        count = seen.sum(2, keepdim=True).clamp_min(1)
        level = z.sum(2, keepdim=True) / count
        spread = (torch.where(seen, z - level, 0).square().sum(2, keepdim=True) / count + 1e-5).sqrt()
        if self.normalise.startswith("last"):
            rows = torch.arange(x.shape[2], device=x.device)[:, None]
            newest = torch.where(seen, rows, -1).amax(2, keepdim=True)
            level = torch.where(newest >= 0, z.gather(2, newest.clamp_min(0)), 0)
        if self.normalise == "none":
            level = torch.zeros_like(level)
        if self.normalise in ("none", "mean-shift", "last-shift"):
            spread = torch.ones_like(spread)
        return torch.where(seen, (z - level) / spread, 0), seen, level, spread

    def _grouped(self, x: Tensor) -> Tensor:
        """(B, V, L, stations) to (B groups, group V, L)."""
        batch, variables, length, stations = x.shape
        x = x.view(batch, variables, length, stations // self.group, self.group)
        return x.permute(0, 3, 4, 1, 2).reshape(-1, self.group * variables, length)

    def _embed(self, values: Tensor, seen: Tensor, cycles: Tensor) -> Tensor:
        """Windows (B, V, L, stations) to maps (B groups, 1, H, W)."""
        rows = torch.cat([self._grouped(values), self._grouped(seen.to(values.dtype))], 1)
        embedded = self.embedding(rows).transpose(1, 2)
        groups = len(rows) // len(values)
        if self.embed_time is not None:
            embedded = embedded + self.embed_time(cycles.transpose(1, 2)).repeat_interleave(groups, 0)
        place = self.embed_place(self.coordinates.view(groups, -1))
        embedded = embedded + place.repeat(len(values), 1)[:, None]
        return self.drop(embedded).reshape(-1, 1, *self.map_size)


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
