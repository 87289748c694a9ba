from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import unireplknet
from tests.nn.helpers import randomise, relative_error
from unireplknet.errors import UserError
from unireplknet.insight.kernels import (
    branch_kernels,
    draw_kernels,
    first_of_each_stage,
    magnitude,
    reparam_blocks,
    summarise,
)
from unireplknet.nn.dilated_reparam import DilatedReparamConv

ROUNDING = 1e-12
"""Sums of at most 17 x 17 products in float64."""


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([7, 9, 13, 15, 19]), st.integers(0, 1000))
def test_each_sparse_kernel_is_its_branch_and_their_sum_the_merged_one(size: int, seed: int) -> None:
    block = randomise(DilatedReparamConv(3, size).double(), seed).eval()
    x = torch.randn(2, 3, 11, 14, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    branches = branch_kernels(block)
    assert len(branches) == len(block.branches)
    for branch, module in zip(branches, block.branches, strict=True):
        convolved = F.conv2d(x, branch.kernel, branch.bias, padding=size // 2, groups=3)
        # The branch as PyTorch computes it: a dilated convolution, then its BatchNorm.
        k, r = module.conv.kernel_size[0], module.conv.dilation[0]
        plain = F.conv2d(x, module.conv.weight, padding=(k - 1) // 2 * r, dilation=r, groups=3)
        plain = F.batch_norm(plain, module.bn.running_mean, module.bn.running_var, module.bn.weight, module.bn.bias)
        assert (branch.size, branch.dilation) == (k, r)
        assert relative_error(convolved, plain) < ROUNDING
        assert branch.kernel.count_nonzero() == 3 * k * k  # sparse where it is dilated or padded
    merged = block.fuse()
    assert relative_error(sum(b.kernel for b in branches), merged.weight) < ROUNDING
    assert relative_error(sum(b.bias for b in branches), merged.bias) < ROUNDING


def test_magnitude_is_the_mean_over_channels() -> None:
    kernel = torch.tensor([[[[1.0, -2.0]]], [[[-3.0, 0.0]]]])
    np.testing.assert_allclose(magnitude(kernel), [[2, 1]])


def test_blocks_are_found_and_the_first_of_each_stage_shown() -> None:
    model = unireplknet.create_model("unireplknet_a", num_classes=0)
    blocks = reparam_blocks(model)
    assert len(blocks) == 2 + 6 + 2
    names = [f"stages.{stage}.blocks.0.dwconv" for stage in (1, 2, 3)]
    assert list(first_of_each_stage(blocks)) == names


@pytest.mark.parametrize("name", ["test_resnet", "merged"])
def test_networks_without_branches_are_refused(name: str) -> None:
    model = (
        unireplknet.create_model("test_unireplknet").reparameterize() if name == "merged" else timm.create_model(name)
    )
    with pytest.raises(UserError, match="no Dilated Reparam Block: none in its design, or merged already"):
        reparam_blocks(model)


def test_parts_add_up_to_the_whole() -> None:
    rows = summarise(randomise(DilatedReparamConv(4, 13)))
    assert [(row["kernel_size"], row["dilation"]) for row in rows] == [(13, 1), (5, 1), (7, 2), (3, 3), (3, 4), (3, 5)]
    assert [row["covers"] for row in rows] == [13, 5, 13, 7, 9, 11]
    assert sum(row["part"] for row in rows) == pytest.approx(1)


def test_picture_of_blocks_with_different_numbers_of_branches(tmp_path: Path) -> None:
    rows = [(f"K = {size}", randomise(DilatedReparamConv(4, size))) for size in (7, 13)]
    draw_kernels(rows, tmp_path / "k.png")
    pixels = np.asarray(Image.open(tmp_path / "k.png").convert("L"))
    assert 0.2 < (pixels < 250).mean() < 0.8
