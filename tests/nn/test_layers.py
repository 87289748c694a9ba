"""Squeeze-and-excitation as linear layers against timm's, which is composed of convolutions."""

import pytest
import timm.layers
import torch
from torch import Tensor

from unireplknet.nn.layers import SqueezeExcite

from .helpers import relative_error


def pair(channels: int) -> tuple[SqueezeExcite, timm.layers.SqueezeExcite]:
    ours = SqueezeExcite(channels, rd_channels=2).double()
    theirs = timm.layers.SqueezeExcite(channels, rd_channels=2).double()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("shape", [(2, 6, 5, 3), (1, 4, 1, 1), (3, 1, 2, 7)])
def test_squeeze_excite_is_timms(shape: tuple[int, ...]) -> None:
    ours, theirs = pair(shape[1])
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    results: list[list[Tensor]] = []
    for layer in (ours, theirs):
        y = layer(x)
        results.append([y, *torch.autograd.grad(y.sin().sum(), [x, *layer.parameters()])])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=1e-15)


def test_a_hooked_or_replaced_layer_of_squeeze_excite_is_called() -> None:
    ours, _ = pair(4)
    seen: list[Tensor] = []
    ours.fc1.register_forward_hook(lambda _module, _args, output: seen.append(output))
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    before = ours(x)
    assert len(seen) == 1
    ours.act = torch.nn.Tanh()
    assert relative_error(ours(x), before) > 1e-6
