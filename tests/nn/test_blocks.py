"""Blocks against the branch-by-branch definition in float64."""

import copy

import pytest
import torch
from torch import nn

from unireplknet.nn import DepthwiseConv2d, DilatedReparamConv, GlobalResponseNorm, UniRepLKBlock, reparameterize
from unireplknet.nn.reparam import default_branches

from . import definition
from .helpers import randomise, relative_error

T3B_UNDILATED = [(5, 1), (7, 1), (3, 1), (3, 1), (3, 1)]


def _dilations(module: DilatedReparamConv) -> list[int]:
    return [r for _, r in module.pairs]


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("size", range(3, 33, 2))
def test_merged_kernel(size: int, extreme: bool) -> None:
    branches = default_branches(size) or [(3, 1)]
    block = randomise(DilatedReparamConv(5, size, branches), seed=size, extreme=extreme).eval()
    x = torch.randn(2, 5, 11, 17)
    exact = definition.dilated_reparam(x.double(), _float64(block), "", _dilations(block))
    plain = definition.dilated_reparam(x, _prefixed(block), "", _dilations(block))
    bound = max(1e-5, 2 * relative_error(plain, exact))
    assert relative_error(block(x), exact) <= bound
    assert relative_error(block.fuse()(x), exact) <= bound
    double = copy.deepcopy(block).double()
    exact = definition.dilated_reparam(x.double(), _prefixed(double), "", _dilations(block))
    assert relative_error(double.fuse()(x.double()), exact) < 1e-12


def _prefixed(module: nn.Module) -> dict[str, torch.Tensor]:
    return {f".{key}": value for key, value in module.state_dict().items()}


def _float64(module: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.double() for key, value in _prefixed(module).items()}


def test_equal_branches_are_all_counted() -> None:
    block = randomise(DilatedReparamConv(3, 13, T3B_UNDILATED).double()).eval()
    assert block.pairs == T3B_UNDILATED
    x = torch.randn(1, 3, 14, 9, dtype=torch.float64)
    exact = definition.dilated_reparam(x, _prefixed(block), "", _dilations(block))
    assert relative_error(block.fuse()(x), exact) < 1e-12


def test_training_mode_uses_batch_statistics_of_every_branch() -> None:
    block = randomise(DilatedReparamConv(4, 9).double()).train()
    x = torch.randn(3, 4, 8, 6, dtype=torch.float64)
    expected = torch.zeros_like(x)
    means = []
    for (_, r), branch in zip([(9, 1), *block.pairs], block.branches, strict=True):
        y = definition.depthwise(x, branch.conv.weight, r)
        mean, var = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
        gamma, beta = branch.bn.weight[:, None, None], branch.bn.bias[:, None, None]
        expected = expected + (y - mean) / (var + 1e-5).sqrt() * gamma + beta
        means.append(0.9 * branch.bn.running_mean + 0.1 * mean.flatten())
    assert relative_error(block(x), expected) < 1e-12
    for branch, mean in zip(block.branches, means, strict=True):
        assert relative_error(branch.bn.running_mean, mean) < 1e-12
        assert branch.bn.num_batches_tracked == 1


def test_eval_mode_is_differentiable_in_every_branch_parameter_and_caches_nothing() -> None:
    block = randomise(DilatedReparamConv(2, 7).double()).eval()
    x = torch.randn(1, 2, 6, 8, dtype=torch.float64)
    names = [name for name, _ in block.named_parameters()]
    state = {
        key: value.clone().requires_grad_(key.removeprefix(".") in names) for key, value in _prefixed(block).items()
    }
    y = definition.dilated_reparam(x, state, "", _dilations(block))
    expected = torch.autograd.grad(y.square().sum(), [state[f".{name}"] for name in names])
    got = torch.autograd.grad(block(x).square().sum(), list(block.parameters()))
    for name, a, b in zip(names, got, expected, strict=True):
        assert relative_error(a, b) < 1e-11, name
    before = block(x)
    with torch.no_grad():
        block.branches[2].bn.running_var.mul_(4)
    assert relative_error(block(x), before) > 1e-3


@pytest.mark.parametrize("extra", ["se", "none", "bottleneck", "pointwise", "depthwise"])
@pytest.mark.parametrize("kernel_size", [0, 3, 5, 7, 13])
@pytest.mark.parametrize("extreme", [False, True])
def test_merged_block(kernel_size: int, extra: str, extreme: bool) -> None:
    block = randomise(UniRepLKBlock(8, kernel_size, extra=extra).double(), extreme=extreme).eval()
    x = torch.randn(2, 8, 10, 7, dtype=torch.float64)
    dilations = [r for _, r in default_branches(kernel_size)]
    exact = definition.block(x, _prefixed(block), "", dilations)
    assert relative_error(block(x), exact) < 1e-12
    merged = reparameterize(copy.deepcopy(block))
    assert relative_error(merged(x), exact) < 1e-12
    kinds = {type(module) for module in merged.modules()}
    assert not kinds & {nn.BatchNorm2d, DilatedReparamConv}
    assert merged.layer_scale is None
    assert merged.grn.bias is None


def test_merge_keeps_dtype_mode_and_requires_grad_and_is_idempotent() -> None:
    block = randomise(UniRepLKBlock(8, 13)).to(torch.bfloat16).train()
    block.dwconv.main.weight.requires_grad_(False)
    block.reparameterize()
    assert isinstance(block.dwconv, DepthwiseConv2d)
    assert all(p.dtype == torch.bfloat16 for p in block.parameters())
    assert all(module.training for module in block.modules())
    assert not block.dwconv.weight.requires_grad
    assert not block.dwconv.bias.requires_grad
    assert block.pwconv2.weight.requires_grad
    state = {key: value.clone() for key, value in block.state_dict().items()}
    block.reparameterize()
    assert state.keys() == block.state_dict().keys()
    assert all(torch.equal(value, state[key]) for key, value in block.state_dict().items())


def test_lone_reparam_conv_cannot_be_replaced() -> None:
    with pytest.raises(ValueError, match="fuse"):
        reparameterize(DilatedReparamConv(4, 7))
    holder = nn.Sequential(DilatedReparamConv(4, 7))
    assert isinstance(reparameterize(holder)[0], DepthwiseConv2d)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_grn_against_its_definition(dtype: torch.dtype) -> None:
    layer = GlobalResponseNorm(12, dtype=dtype)
    with torch.no_grad():
        layer.weight.uniform_(-1, 1)
        layer.bias.uniform_(-1, 1)
    x = torch.randn(2, 9, 5, 12).to(dtype)
    exact = definition.grn(x.double(), layer.weight.double(), layer.bias.double())
    bound = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2, torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    assert relative_error(layer(x), exact) < bound


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_grn_does_not_overflow_near_the_edge_of_half_precision(dtype: torch.dtype) -> None:
    layer = GlobalResponseNorm(16, dtype=dtype)
    with torch.no_grad():
        layer.weight.fill_(0.5)
    x = (1e4 * torch.rand(1, 56, 56, 16)).to(dtype)
    exact = definition.grn(x.double(), layer.weight.double(), layer.bias.double())
    assert exact.abs().max() < torch.finfo(torch.float16).max
    assert relative_error(layer(x), exact) < (2e-3 if dtype == torch.float16 else 1.6e-2)


def test_unknown_extra_structure() -> None:
    with pytest.raises(ValueError, match="extra is 'cbam', expected one of se, bottleneck"):
        UniRepLKBlock(8, 3, extra="cbam")
