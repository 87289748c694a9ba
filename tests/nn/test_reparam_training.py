"""The fused training step of the Dilated Reparam Block against modules called one by one."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from unireplknet.nn import DilatedReparamConv
from unireplknet.nn.dilated_reparam import ReparamBranch
from unireplknet.ops import use_backend

from .helpers import randomise, relative_error


def plain(block: DilatedReparamConv, x: Tensor) -> Tensor:
    """The definition: PyTorch's own convolutions and norms, one after the other."""
    y = torch.zeros_like(x)
    for branch in block.branches:
        conv = branch.conv
        z = nn.functional.conv2d(x, conv.weight, None, 1, conv.padding, conv.dilation, conv.groups)
        y = y + nn.functional.batch_norm(
            z,
            branch.bn.running_mean,
            branch.bn.running_var,
            branch.bn.weight,
            branch.bn.bias,
            training=True,
            momentum=branch.bn.momentum,
            eps=branch.bn.eps,
        )
    return y


def gradients(call: Callable[[Tensor], Tensor], block: nn.Module, x: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = call(x)
    weight = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).reshape(y.shape).sin()
    return [y, *torch.autograd.grad((y * weight).sum(), [x, *block.parameters()])]


SHAPES = [(3, 4, 9, 6), (1, 2, 5, 14), (2, 3, 1, 7), (8, 1, 2, 2)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [7, 13, 17, 31])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_gradients_and_statistics_in_float64(
    shape: tuple[int, int, int, int], size: int, channels_last: bool
) -> None:
    block = randomise(DilatedReparamConv(shape[1], size).double()).train()
    reference = copy.deepcopy(block)
    x = torch.randn(shape, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    names = ["output", "x", *(name for name, _ in block.named_parameters())]
    for name, a, b in zip(
        names, gradients(block, block, x), gradients(lambda x: plain(reference, x), reference, x), strict=True
    ):
        # Two or three values a channel make the norm's gradients nearly cancel: compare to the scale of 1 then.
        assert (a - b).abs().max() <= 1e-11 * max(1.0, b.abs().max().item()), name
    for branch, other in zip(block.branches, reference.branches, strict=True):
        assert relative_error(branch.bn.running_mean, other.bn.running_mean) < 1e-13
        assert relative_error(branch.bn.running_var, other.bn.running_var) < 1e-12
        assert branch.bn.num_batches_tracked == 1


def test_gradcheck_and_second_derivatives() -> None:
    block = randomise(DilatedReparamConv(1, 5, [(3, 2), (3, 2)]).double()).train()
    x = torch.randn(2, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in block.named_parameters()]

    def call(x: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(block, dict(zip(names, values, strict=True)), x)

    values = [p.detach().clone().requires_grad_() for p in block.parameters()]
    assert torch.autograd.gradcheck(call, (x, *values))
    assert torch.autograd.gradgradcheck(call, (x, *values), atol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_float32_is_as_accurate_as_the_modules(backend: str) -> None:
    block = randomise(DilatedReparamConv(6, 13)).train()
    double, modules = copy.deepcopy(block).double(), copy.deepcopy(block)
    x = torch.randn(4, 6, 14, 14)
    exact = gradients(lambda x: plain(double, x), double, x.double())
    usual = gradients(lambda x: plain(modules, x), modules, x)
    with use_backend(backend):
        fused = gradients(block, block, x)
    for name, a, b, c in zip(
        ["output", "x", *(n for n, _ in block.named_parameters())], fused, usual, exact, strict=True
    ):
        floor = max(1.0, c.square().mean().sqrt().item())  # gradients that are zero but for rounding
        error, usual_error = ((found - c).square().mean().sqrt().item() for found in (a, b))
        assert error <= max(2 * usual_error, 1e-6 * floor), name


def test_saves_its_input_and_no_branch_output() -> None:
    block = DilatedReparamConv(8, 13).train()
    x = torch.randn(4, 8, 20, 20)
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = block(x.requires_grad_())
    maps = [n for n in saved.values() if n == x.numel()]
    assert len(maps) == 1
    assert y.requires_grad


def _hook_called(block: DilatedReparamConv) -> list[int]:
    calls: list[int] = []
    block.branches[1].bn.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_hooks_are_called() -> None:
    block = randomise(DilatedReparamConv(2, 7).double()).train()
    calls = _hook_called(block)
    reference = copy.deepcopy(block)
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    assert relative_error(block(x), plain(reference, x)) < 1e-12
    assert calls == [1]


@pytest.mark.parametrize("change", ["momentum", "eval", "no statistics", "not affine"])
def test_unusual_norms_behave_as_the_modules_do(change: str) -> None:
    block = randomise(DilatedReparamConv(3, 7).double()).train()
    bn = block.branches[2].bn
    if change == "momentum":
        bn.momentum = None
    elif change == "eval":
        bn.eval()
    elif change == "no statistics":
        block.branches[2].bn = nn.BatchNorm2d(3, track_running_stats=False).double()
    else:
        block.branches[2].bn = nn.BatchNorm2d(3, affine=False).double()
    reference = copy.deepcopy(block)
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = sum(branch.bn(branch.conv(x)) for branch in reference.branches)
    assert relative_error(block(x), expected) < 1e-12
    for (name, a), b in zip(block.state_dict().items(), reference.state_dict().values(), strict=True):
        assert (a - b).abs().max() < 1e-12, name


def test_one_value_per_channel_is_refused_as_by_batch_norm() -> None:
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        DilatedReparamConv(2, 7).train()(torch.randn(1, 2, 1, 1))


def test_frozen_parameters_get_no_gradient() -> None:
    block = DilatedReparamConv(2, 7).train()
    block.main.weight.requires_grad_(False)
    block(torch.randn(2, 2, 5, 5)).sum().backward()
    assert block.main.weight.grad is None
    assert isinstance(block.branches[1], ReparamBranch)
    assert block.branches[1].conv.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    block = randomise(DilatedReparamConv(4, 13)).train()
    double = copy.deepcopy(block).double()
    x = torch.randn(2, 4, 12, 12)
    with torch.autocast("cpu", dtype):
        fused = gradients(block, block, x)
    exact = gradients(lambda x: plain(double, x), double, x.double())
    assert fused[0].dtype == dtype
    bound = {torch.bfloat16: 6e-2, torch.float16: 8e-3}[dtype]
    for name, a, b in zip(["output", "x", *(n for n, _ in block.named_parameters())], fused, exact, strict=True):
        assert (a.double() - b).abs().max() <= bound * max(1.0, b.abs().max().item()), name
    assert block.branches[0].bn.running_mean.dtype == torch.float32
