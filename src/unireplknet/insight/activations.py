"""What the stages of a network make of one sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from unireplknet.errors import UserError
from unireplknet.insight.figure import new_figure
from unireplknet.insight.seen import draw_panel
from unireplknet.modalities.panels import Panel


@torch.no_grad()
def stage_maps(model: nn.Module, sample: Tensor) -> list[Tensor]:
    """The output of each stage for one map, in evaluation mode.

    Args:
        model: One of ours or timm's.
        sample: Shape (C, H, W).

    Returns:
        A map of shape (C', H', W') for each stage.

    Raises:
        UserError: The network does not give its maps away.
    """
    forward = getattr(model.eval(), "forward_intermediates", None)
    if forward is None:
        raise UserError(f"{type(model).__name__} has no forward_intermediates(); timm's image networks have")
    return [found[0] for found in forward(sample[None], intermediates_only=True)]


def draw_stages(panels: Sequence[Panel], stages: Sequence[Tensor], title: str, picture: Path, count: int = 5) -> None:
    """Draw the sample, and for each stage the mean absolute activation and the channels that vary most over the map.

    Args:
        panels: The pictures of the sample; the first one is drawn.
        stages: Those of :func:`stage_maps`.
        title: Name of the sample.
        picture: The PNG file to write.
        count: How many channels.
    """
    figure = new_figure(1.7 * (count + 1) + 3.2, 1.9 * len(stages) + 0.4)
    seen, made = figure.subfigures(1, 2, width_ratios=(3.2, 1.7 * (count + 1)))
    draw_panel(seen.subplots(), panels[0])
    for row, (line, stage) in enumerate(zip(made.subplots(len(stages), count + 1, squeeze=False), stages, strict=True)):
        for axes in line:
            axes.set_axis_off()
        _, height, width = stage.shape
        line[0].imshow(stage.abs().mean(0).numpy(), cmap="viridis", interpolation="nearest")
        line[0].set_title(f"stage {row + 1}: {height} x {width}", fontsize="small")
        strongest = stage.flatten(1).var(1, correction=0).topk(min(count, len(stage))).indices.tolist()
        for axes, channel in zip(line[1:], strongest, strict=False):
            axes.imshow(stage[channel].numpy(), cmap="viridis", interpolation="nearest")
            axes.set_title(f"channel {channel}", fontsize="small")
    figure.suptitle(f"{title}: mean absolute activation, and the channels that vary most", fontsize="medium")
    figure.savefig(picture, dpi=110)
