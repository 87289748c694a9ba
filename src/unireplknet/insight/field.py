"""How far a network sees: the effective receptive field."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unireplknet.errors import UserError
from unireplknet.insight.figure import new_figure

THRESHOLDS = (0.2, 0.3, 0.5, 0.99)
"""Parts of the contribution whose area RepLKNet states."""


@dataclass(frozen=True)
class Field:
    """What the pixels of the input contribute to the central feature of the last map.

    Attributes:
        name: Of the network.
        scores: Mean contribution of each pixel, shape (H, W), not negative.
        images: How many images it was averaged over.
    """

    name: str
    scores: np.ndarray
    images: int

    @property
    def scaled(self) -> np.ndarray:
        """The scores as RepLKNet counts and draws them: log10(A + 1), the largest one 1."""
        logs = np.log10(self.scores + 1)
        return logs / logs.max()

    def summary(self) -> dict[str, Any]:
        """Side and area of the squares that cover the parts of :data:`THRESHOLDS`, as plain numbers."""
        squares = {f"{threshold:.0%}": covering_square(self.scaled, threshold) for threshold in THRESHOLDS}
        return {
            "name": self.name,
            "images": self.images,
            "pixels": list(self.scores.shape),
            "largest": float(self.scores.max()),
            "area_ratio": {part: ratio for part, (_, ratio) in squares.items()},
            "side": {part: side for part, (side, _) in squares.items()},
        }


def covering_square(scores: np.ndarray, threshold: float) -> tuple[int, float]:
    """The smallest centred square with more than a part of the scores; its area is the high-contribution area ratio.

    Args:
        scores: Contributions, shape (H, W); the centre is pixel (H // 2, W // 2).
        threshold: The part, below 1.

    Returns:
        The side of the square, an odd number from 3 on or that of the whole map, and the part of the map that the
        square takes.

    Source:
        RepLKNet, appendix on effective receptive fields, and the authors' analyze_erf.py.
    """
    height, width = scores.shape
    distance = np.maximum(abs(np.arange(height) - height // 2)[:, None], abs(np.arange(width) - width // 2))
    inside = np.bincount(distance.ravel(), scores.ravel()).cumsum()
    pixels = np.bincount(distance.ravel()).cumsum()
    radius = max(1, int(np.argmax(inside / inside[-1] > threshold)))
    return min(2 * radius + 1, max(height, width)), float(pixels[radius] / scores.size)


def last_map(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The function from a batch (B, C, H, W) to the last map (B, C', H', W') of any of timm's networks.

    Raises:
        UserError: The network does not give its maps away.
    """
    forward = getattr(model, "forward_intermediates", None)
    if forward is None:
        raise UserError(f"{type(model).__name__} has no forward_intermediates(); timm's image networks have")
    return lambda maps: forward(maps, indices=1, intermediates_only=True)[-1]


def receptive_field(name: str, features: Callable[[Tensor], Tensor], images: Iterable[Tensor]) -> Field:
    """Measure an effective receptive field.

    Of the central position of the last map, the positive features are added up; the gradient of that sum at a pixel,
    where positive and over the input's channels, is the pixel's contribution. It is averaged over images; those whose
    gradient is not a number are left out.

    Args:
        name: Of the network.
        features: From (1, C, H, W) to a map (1, C', H', W'), without randomness.
        images: Inputs of shape (C, H, W), all of one size.

    Raises:
        UserError: No image gave a contribution, or images have several sizes.

    Source:
        Luo et al., Understanding the Effective Receptive Field; aggregated as in RepLKNet's visualize_erf.py.
    """
    total, count = np.zeros(()), 0
    for image in images:
        batch = image[None].clone().requires_grad_()
        with torch.enable_grad():
            found = features(batch)
            centre = found[..., found.shape[2] // 2, found.shape[3] // 2].relu().sum()
        (gradient,) = torch.autograd.grad(centre, batch)
        scores = gradient.relu().sum((0, 1)).double().cpu().numpy()
        if total.ndim and total.shape != scores.shape:
            raise UserError(f"{name}: the images have several sizes, {total.shape} and {scores.shape}")
        if not np.isnan(scores).any():
            total, count = total + scores, count + 1
    if not total.any():
        raise UserError(f"{name}: the centre of the last map depends on none of the inputs")
    return Field(name, total / count, count)


@torch.no_grad()
def open_branches(model: nn.Module, maps: Tensor) -> nn.Module:
    """Give residual branches their full strength, in place, in a network that was not trained.

    Layer scales begin at 1e-6, last norms of branches at 0, weights at a spread of 0.02, and norms without statistics:
    a fresh network does not see through its blocks yet. Here weights keep the variance of what they take in (LeCun's
    initialisation), scales are 1 and norms know the statistics of ``maps``. What training makes of the branches
    differs: this is the field that the structure allows.

    Args:
        model: One of ours or timm's.
        maps: Inputs to take the statistics from, shape (B, C, H, W).

    Returns:
        The model, in evaluation mode.
    """
    norms = []
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("layer_scale", "gamma"):
            parameter.fill_(1)
    for module in model.eval().modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            norms.append((module.train(), module.momentum))
            module.momentum = 1.0  # the statistics of this one batch
    model(maps)
    for norm, momentum in norms:
        norm.momentum = momentum
    return model.eval()


def draw_fields(fields: Sequence[Field], picture: Path) -> None:
    """Draw effective receptive fields side by side, each with the squares that cover 20, 30, 50 and 99%.

    Args:
        fields: What to draw.
        picture: The PNG file to write.
    """
    from matplotlib.patches import Rectangle

    columns = min(4, len(fields))
    rows = -(-len(fields) // columns)
    figure = new_figure(3.4 * columns + 0.9, 4.3 * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, field in zip(grid, fields, strict=False):
        image = axes.imshow(field.scaled, cmap="magma", vmin=0, vmax=1)
        height, width = field.scores.shape
        said = field.summary()
        for part, side in said["side"].items():
            corner = (width // 2 - side // 2 - 0.5, height // 2 - side // 2 - 0.5)
            axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="tab:cyan", linewidth=0.8, label=part))
        axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=(), yticks=())
        areas = ", ".join(f"{part} in {ratio:.1%}" for part, ratio in said["area_ratio"].items())
        half = areas.index(", 50%")
        axes.set_title(f"{field.name}\n{height} x {width} pixels", fontsize="medium")
        axes.set_xlabel(f"{areas[:half]}\n{areas[half + 2 :]} of the area", fontsize="small")
    for axes in grid[len(fields) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid, shrink=0.7, label="contribution, log10(A + 1), largest 1")
    figure.savefig(picture, dpi=110)
