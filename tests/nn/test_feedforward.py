"""The fused pointwise half of the block against its definition."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from unireplknet.nn import UniRepLKBlock, feedforward
from unireplknet.nn.feedforward import feed_forward, pointwise

from . import definition
from .helpers import randomise, relative_error


def defined(
    x: Tensor, w1: Tensor, b1: Tensor, gamma: Tensor, beta: Tensor | None, w2: Tensor, b2: Tensor | None
) -> Tensor:
    y = F.gelu(F.linear(x.permute(0, 2, 3, 1), w1, b1))
    y = definition.grn(y, gamma, torch.zeros_like(gamma) if beta is None else beta)
    return F.linear(y, w2, b2).permute(0, 3, 1, 2)


def arguments(
    shape: tuple[int, ...], dtype: torch.dtype, merged: bool, channels_last: bool = True
) -> list[Tensor | None]:
    g = torch.Generator().manual_seed(1)
    c = shape[1]

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=g, dtype=torch.float64).to(dtype).requires_grad_()

    x = draw(*shape).detach()
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    beta, bias2 = (None, draw(c)) if merged else (draw(4 * c), None)
    return [x.requires_grad_(), draw(4 * c, c), draw(4 * c), draw(4 * c), beta, draw(c, 4 * c), bias2]


def gradients(y: Tensor, tensors: list[Tensor | None]) -> list[Tensor]:
    weight = torch.linspace(-1, 2, y.numel(), dtype=torch.float64).reshape(y.shape).sin()
    return list(torch.autograd.grad((y.double() * weight).sum(), [t for t in tensors if t is not None]))


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 1), (3, 2, 1, 6), (2, 8, 2, 3)])
def test_output_and_gradients_in_float64(shape: tuple[int, ...], merged: bool, channels_last: bool) -> None:
    values = arguments(shape, torch.float64, merged, channels_last)
    y, exact = feed_forward(*values, 1e-6), defined(*values)
    assert relative_error(y, exact) < 1e-13
    for i, (a, b) in enumerate(zip(gradients(y, values), gradients(exact, values), strict=True)):
        assert relative_error(a, b) < 1e-12, i
    with torch.no_grad():
        assert relative_error(feed_forward(*values, 1e-6), exact) < 1e-13


def test_gradcheck() -> None:
    values = arguments((2, 2, 3, 2), torch.float64, merged=False)
    assert torch.autograd.gradcheck(lambda *v: feed_forward(*v[:6], None, 1e-6), [v for v in values if v is not None])


def test_a_channel_that_is_zero_everywhere_has_a_finite_gradient() -> None:
    values = arguments((1, 2, 3, 3), torch.float64, merged=False)
    with torch.no_grad():
        values[1][3] = 0
        values[2][3] = 0
    x, w1, b1, gamma, beta, w2, _ = values
    g = F.gelu(F.linear(x.permute(0, 2, 3, 1), w1, b1))
    norm = torch.linalg.vector_norm(g, dim=(1, 2), keepdim=True)  # whose gradient at zero is zero
    exact = F.linear(gamma * (g * norm / (norm.mean(-1, keepdim=True) + 1e-6)) + beta + g, w2).permute(0, 3, 1, 2)
    y = feed_forward(*values, 1e-6)
    for a, b in zip(gradients(y, values), gradients(exact, values), strict=True):
        assert relative_error(a, b) < 1e-12


def test_float32_is_as_accurate_as_its_definition() -> None:
    values = arguments((4, 16, 9, 9), torch.float32, merged=False)
    doubles = [None if v is None else v.detach().double().requires_grad_() for v in values]
    exact = gradients(defined(*doubles), doubles)
    usual = gradients(defined(*values), values)
    fused = gradients(feed_forward(*values, 1e-6), values)
    for a, b, c in zip(fused, usual, exact, strict=True):
        assert relative_error(a, c) <= max(3 * relative_error(b, c), 1e-6)


def test_keeps_one_hidden_map() -> None:
    values = arguments((2, 8, 10, 10), torch.float32, merged=False)
    hidden = 4 * values[0].numel()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = feed_forward(*values, 1e-6)
    assert y.requires_grad
    assert list(kept.values()).count(hidden) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    values = arguments((2, 8, 7, 7), torch.float32, merged=False)
    with torch.autocast("cpu", dtype):
        y = feed_forward(*values, 1e-6)
    assert y.dtype == dtype
    exact = defined(*values)
    bound = {torch.bfloat16: 6e-2, torch.float16: 8e-3}[dtype]
    assert relative_error(y, exact) < bound
    for a, b in zip(gradients(y, values), gradients(exact, values), strict=True):
        assert a.dtype == torch.float32
        assert relative_error(a, b) < bound


def test_a_hooked_or_replaced_layer_is_called() -> None:
    block = randomise(UniRepLKBlock(4, 3).double()).eval()
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    expected = block(x)
    seen: list[torch.Size] = []
    handle = block.pwconv2.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert relative_error(block(x), expected) < 1e-12
    assert seen == [(2, 5, 6, 4)]
    handle.remove()

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    block.pwconv1.__class__ = Doubled
    assert relative_error(block(x), expected) > 1e-3


def test_pointwise_is_a_linear_layer() -> None:
    x, w, b = torch.randn(2, 3, 5, 4), torch.randn(7, 3), torch.randn(7)
    expected = F.linear(x.permute(0, 2, 3, 1).double(), w.double(), b.double()).permute(0, 3, 1, 2)
    assert relative_error(pointwise(x, w, b), expected) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels_last", [True, False])
def test_inference_in_parts_is_the_same(
    dtype: torch.dtype, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = arguments((5, 6, 7, 3), dtype, True, channels_last)
    exact = defined(*(None if v is None else v.double() for v in values))
    for size in (1, 2 * 24 * 7 * 3 * 4, 1 << 30):
        monkeypatch.setattr(feedforward, "CACHE_BYTES", size)
        with torch.inference_mode():
            y = feed_forward(*values, 1e-6)
        assert y.shape == exact.shape
        assert y.dtype == dtype
        assert relative_error(y, exact) < (1e-6 if dtype == torch.float32 else 1e-2)


def test_inference_of_an_empty_batch() -> None:
    values = arguments((0, 3, 5, 4), torch.float32, True)
    with torch.no_grad():
        assert feed_forward(*values, 1e-6).shape == (0, 3, 5, 4)


def test_counters_see_the_layers_of_inference() -> None:
    values = arguments((2, 3, 5, 4), torch.float32, True)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        feed_forward(*values, 1e-6)
    assert counter.get_total_flops() == 2 * 2 * (2 * 5 * 4) * 3 * 12


def test_inference_under_autocast_computes_as_the_plain_layers_do() -> None:
    values = arguments((2, 6, 5, 4), torch.float32, True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = feed_forward(*values, 1e-6)
        g = F.gelu(pointwise(*values[:3]))
        expected = pointwise(feedforward.global_response_norm(g, values[3], None, 1e-6), *values[5:])
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # PyTorch's own, on the way
def test_forward_mode_derivatives_of_a_frozen_layer() -> None:
    values = [v.detach() if v is not None else None for v in arguments((2, 3, 4, 3), torch.float32, True)]
    tangent = torch.randn_like(values[0])
    with forward_ad.dual_level():
        x = forward_ad.make_dual(values[0], tangent)
        got = forward_ad.unpack_dual(feed_forward(x, *values[1:], 1e-6)).tangent
    double = [None if v is None else v.double() for v in values]
    _, expected = torch.func.jvp(lambda x: defined(x, *double[1:]), (double[0],), (tangent.double(),))
    assert got is not None
    assert relative_error(got, expected) < 1e-5
