"""The merge's pure functions against convolutions."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unireplknet.nn.reparam import (
    PUBLISHED_BRANCHES,
    check_branches,
    default_branches,
    dilate_kernel,
    fold_bn,
    merge_branch,
    pad_kernel,
)

from .helpers import randomise, relative_error

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
ODD = st.integers(0, 3).map(lambda n: 2 * n + 1)


@given(dims=st.sampled_from([1, 2, 3]), k=ODD, r=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_dilated_kernel_is_the_same_convolution(dims: int, k: int, r: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    size = (k - 1) * r + 1
    x = torch.randn(2, 3, *[9] * dims, generator=g, dtype=torch.float64)
    w = torch.randn(3, 1, *[k] * dims, generator=g, dtype=torch.float64)
    sparse = dilate_kernel(w, r)
    assert sparse.shape[2:] == (size,) * dims
    assert sparse.count_nonzero() == w.count_nonzero()
    expected = CONV[dims](x, w, padding=(k - 1) // 2 * r, dilation=r, groups=3)
    assert relative_error(CONV[dims](x, sparse, padding=size // 2, groups=3), expected) < 1e-14


@given(k=ODD, margin=st.integers(0, 3), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=20)
def test_padded_kernel_is_the_same_convolution(k: int, margin: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    size = k + 2 * margin
    x = torch.randn(1, 2, 7, 5, generator=g, dtype=torch.float64)
    w = torch.randn(2, 1, k, k, generator=g, dtype=torch.float64)
    padded = pad_kernel(w, size)
    assert padded.shape == (2, 1, size, size)
    expected = F.conv2d(x, w, padding=k // 2, groups=2)
    assert relative_error(F.conv2d(x, padded, padding=size // 2, groups=2), expected) < 1e-14


@pytest.mark.parametrize(("k", "size"), [(5, 3), (3, 4)])
def test_kernel_that_cannot_be_centred(k: int, size: int) -> None:
    with pytest.raises(ValueError, match="cannot be centred"):
        pad_kernel(torch.zeros(1, 1, k, k), size)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_folded_norm_is_the_norm(dims: int, bias: bool, affine: bool) -> None:
    bn = BATCH_NORM[dims](4, affine=affine).double().eval()
    bn.running_mean.normal_()
    bn.running_var.uniform_(1e-6, 10)
    if affine:
        nn.init.normal_(bn.weight)
        nn.init.normal_(bn.bias)
    w = torch.randn(4, 3, *[3] * dims, dtype=torch.float64)
    b = torch.randn(4, dtype=torch.float64) if bias else None
    x = torch.randn(2, 3, *[5] * dims, dtype=torch.float64)
    expected = bn(CONV[dims](x, w, b))
    assert relative_error(CONV[dims](x, *fold_bn(w, b, bn)), expected) < 1e-12


def test_norm_without_statistics_is_refused() -> None:
    with pytest.raises(ValueError, match="running statistics"):
        fold_bn(torch.zeros(2, 1, 3, 3), None, nn.BatchNorm2d(2, track_running_stats=False))


def test_merged_branch_stays_differentiable() -> None:
    bn = randomise(nn.BatchNorm2d(2).double().eval())
    w = torch.randn(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    x = torch.randn(1, 2, 9, 9, dtype=torch.float64)

    def merged(w: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        bn.weight = gamma
        return F.conv2d(x, *merge_branch(w, bn, 2, 7), padding=3, groups=2)

    gamma = torch.rand(2, dtype=torch.float64, requires_grad=True)
    del bn.weight
    assert torch.autograd.gradcheck(merged, (w, gamma))


@pytest.mark.parametrize("size", range(7, 53, 2))
def test_default_branches_fit(size: int) -> None:
    branches = default_branches(size)
    check_branches(size, branches)
    assert len(branches) >= 3
    assert len(set(branches)) == len(branches)


def test_default_branches_are_the_published_ones() -> None:
    assert default_branches(13) == ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))
    assert default_branches(17) == ((5, 1), (9, 2), (3, 4), (3, 5), (3, 7))
    assert default_branches(5) == default_branches(3) == ()
    # The rule beyond 17 is the pattern of 17, and says so by reproducing it.
    sizes = {17: [(k - 1) * r + 1 for k, r in PUBLISHED_BRANCHES[17]]}
    assert sizes[17] == [5, 17, 9, 11, 15]


@pytest.mark.parametrize(
    ("size", "branches", "message"),
    [
        (13, [(5, 4)], r"branches\[0\] is \(5, 4\) and covers .* = 17 pixels, more than the kernel size 13"),
        (13, [(3, 1), (4, 1)], r"branches\[1\] is \(4, 1\), expected an odd kernel size"),
        (12, [], "kernel_size is 12, expected an odd number"),
        (1, [], "kernel_size is 1"),
    ],
)
def test_impossible_branches(size: int, branches: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_branches(size, branches)
