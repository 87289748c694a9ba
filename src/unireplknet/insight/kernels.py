"""The branches of a Dilated Reparam Block as the sparse kernels that they are equal to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from unireplknet.errors import UserError
from unireplknet.insight.figure import new_figure
from unireplknet.nn.dilated_reparam import DilatedReparamConv, ReparamBranch


@dataclass(frozen=True)
class BranchKernel:
    """One branch of a Dilated Reparam Block, its BatchNorm folded in.

    Attributes:
        size: Kernel size k.
        dilation: Dilation r.
        kernel: The K x K kernels that the branch equals in evaluation mode, shape (C, 1, K, K), float64.
        bias: The bias that goes with them, shape (C,).
    """

    size: int
    dilation: int
    kernel: Tensor
    bias: Tensor

    @property
    def label(self) -> str:
        """Such as "5 x 5, dilation 2"."""
        return f"{self.size} x {self.size}" + (f", dilation {self.dilation}" if self.dilation > 1 else "")


@torch.no_grad()
def branch_kernels(block: DilatedReparamConv) -> list[BranchKernel]:
    """The branches of a block as kernels of its own size, the large one first; their sum is the merged kernel.

    Source:
        Section 3.2.2 and equation 1 of the paper.
    """
    large = block.kernel_size[0]
    pairs = [(large, 1), *block.pairs]
    branches = (cast(ReparamBranch, branch) for branch in block.branches)
    return [BranchKernel(k, r, *b.merged_kernel(large)) for (k, r), b in zip(pairs, branches, strict=True)]


def reparam_blocks(model: nn.Module) -> dict[str, DilatedReparamConv]:
    """The Dilated Reparam Blocks of a network by their names, such as stages.1.blocks.0.dwconv.

    Raises:
        UserError: There are none.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, DilatedReparamConv)}
    if not found:
        raise UserError(
            f"this {type(model).__name__} has no Dilated Reparam Block: none in its design, or merged already"
        )
    return found


def first_of_each_stage(blocks: Mapping[str, DilatedReparamConv]) -> dict[str, DilatedReparamConv]:
    """The blocks to show where there is no room for all: the first one of every stage."""
    chosen: dict[str, tuple[str, DilatedReparamConv]] = {}
    for name, block in blocks.items():
        chosen.setdefault(name.partition(".blocks.")[0], (name, block))
    return dict(chosen.values())


def magnitude(kernel: Tensor) -> np.ndarray:
    """Mean absolute value over the channels of kernels (C, 1, K, K): shape (K, K)."""
    return kernel.detach().abs().mean((0, 1)).cpu().numpy()


def summarise(block: DilatedReparamConv) -> list[dict[str, Any]]:
    """Each branch in plain numbers: k, r, the width it covers, and its part of all branches' magnitude."""
    kernels = branch_kernels(block)
    sizes = [float(magnitude(branch.kernel).sum()) for branch in kernels]
    return [
        {
            "kernel_size": branch.size,
            "dilation": branch.dilation,
            "covers": (branch.size - 1) * branch.dilation + 1,
            "part": size / sum(sizes) if sum(sizes) else 0.0,
        }
        for branch, size in zip(kernels, sizes, strict=True)
    ]


def draw_kernels(rows: Sequence[tuple[str, DilatedReparamConv]], picture: Path) -> None:
    """Draw blocks, one a row: each branch as the sparse kernel that it equals, and last their sum.

    A pixel is the mean absolute weight over the channels; the colours of a row share one scale.

    Args:
        rows: Titles and blocks.
        picture: The PNG file to write.
    """
    columns = max(len(block.branches) for _, block in rows) + 1
    figure = new_figure(1.9 * columns + 0.6, 2.3 * len(rows))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (title, block) in zip(grid, rows, strict=True):
        branches = branch_kernels(block)
        merged = magnitude(block.merged_kernel()[0])
        shown = [(branch.label, magnitude(branch.kernel)) for branch in branches]
        top = max(float(values.max()) for _, values in [*shown, ("", merged)]) or 1.0
        for axes, (label, values) in zip(line, shown, strict=False):
            axes.imshow(values, cmap="viridis", vmin=0, vmax=top)
            axes.set_title(label, fontsize="small")
        image = line[-1].imshow(merged, cmap="viridis", vmin=0, vmax=top)
        line[-1].set_title(f"sum, {len(merged)} x {len(merged)}", fontsize="small", fontweight="bold")
        figure.colorbar(image, ax=line[-1], shrink=0.8)
        line[0].text(
            -0.08, 0.5, title, transform=line[0].transAxes, rotation=90, va="center", ha="right", fontsize="small"
        )
    figure.suptitle(
        "branches as sparse kernels, and their sum: mean absolute weight over the channels", fontsize="medium"
    )
    figure.savefig(picture, dpi=110)
