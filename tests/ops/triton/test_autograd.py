"""The differentiable function: derivatives, layouts, torch.compile. Interpreted."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.utils.flop_counter import FlopCounterMode

from unireplknet.ops.triton import can_use, depthwise_conv2d


def native(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int = 1) -> Tensor:
    padding = [k // 2 * dilation for k in weight.shape[2:]]
    return F.conv2d(x, weight, bias, padding=padding, dilation=dilation, groups=x.shape[1])


def leaves(shape: tuple[int, ...], kernel_size: tuple[int, int], dtype=torch.float64) -> tuple[Tensor, ...]:
    x = torch.randn(shape, dtype=dtype)
    weight, bias = torch.randn(shape[1], 1, *kernel_size, dtype=dtype), torch.randn(shape[1], dtype=dtype)
    return tuple(t.requires_grad_() for t in (x, weight, bias))


@pytest.mark.parametrize(
    ("shape", "kernel_size", "dilation"),
    [((2, 2, 3, 4), (5, 3), 1), ((1, 1, 5, 4), (3, 3), 2), ((1, 2, 1, 36), (1, 3), 1)],
)
def test_gradcheck(shape, kernel_size, dilation) -> None:
    assert gradcheck(depthwise_conv2d, (*leaves(shape, kernel_size), dilation), fast_mode=True)


@pytest.mark.parametrize("dilation", [1, 2])
def test_double_backward(dilation: int) -> None:
    assert gradgradcheck(depthwise_conv2d, (*leaves((1, 1, 3, 2), (3, 5)), dilation), fast_mode=True)


def test_expanded_gradient() -> None:
    """The gradient of a sum has stride 0 everywhere."""
    inputs = leaves((2, 2, 5, 4), (3, 3))
    actual = torch.autograd.grad(depthwise_conv2d(*inputs).sum(), inputs)
    expected = torch.autograd.grad(native(*inputs).sum(), inputs)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_only_the_gradients_asked_for() -> None:
    x, weight, _ = leaves((1, 2, 4, 4), (3, 3))
    y = depthwise_conv2d(x.detach(), weight)
    (grad,) = torch.autograd.grad(y.square().sum(), weight)
    (expected,) = torch.autograd.grad(native(x.detach(), weight, None).square().sum(), weight)
    torch.testing.assert_close(grad, expected)
    assert not depthwise_conv2d(x.detach(), weight.detach()).requires_grad


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(memory_format: torch.memory_format) -> None:
    x, weight, bias = leaves((2, 3, 5, 6), (5, 5))
    x = x.detach().contiguous(memory_format=memory_format).requires_grad_()
    y = depthwise_conv2d(x, weight, bias)
    assert y.is_contiguous(memory_format=memory_format)
    torch.testing.assert_close(y, native(x, weight, bias))
    (grad,) = torch.autograd.grad(y.square().sum(), x)
    torch.testing.assert_close(grad, torch.autograd.grad(native(x, weight, bias).square().sum(), x)[0])


def test_float32_parameters_under_half_precision_activations() -> None:
    x, weight, bias = leaves((2, 2, 6, 6), (5, 5), torch.float32)
    x = x.detach().half().requires_grad_()
    y = depthwise_conv2d(x, weight, bias)
    grads = torch.autograd.grad(y.float().square().sum(), (x, weight, bias))
    assert [g.dtype for g in grads] == [torch.float16, torch.float32, torch.float32]
    truth = native(x.double(), weight.half().double(), bias.double())
    expected = torch.autograd.grad(truth.square().sum(), (x, weight, bias))
    torch.testing.assert_close(grads, expected, rtol=1e-2, atol=2e-1)


def test_compiles_to_one_graph_for_any_batch() -> None:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=1):
        compiled = torch.compile(depthwise_conv2d, fullgraph=True, dynamic=True, backend="aot_eager")
        for batch in (6, 7, 9):
            inputs = leaves((batch, 2, 5, 4), (5, 3))
            actual = torch.autograd.grad(compiled(*inputs).square().sum(), inputs)
            expected = torch.autograd.grad(native(*inputs).square().sum(), inputs)
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_flops_are_those_of_the_convolution() -> None:
    x, weight, bias = leaves((2, 3, 5, 4), (5, 3))
    with FlopCounterMode(display=False) as counter:
        depthwise_conv2d(x, weight, bias).sum().backward()
    forward = 2 * (2 * 3 * 5 * 4) * (5 * 3)
    assert counter.get_total_flops() == 3 * forward


def test_interpreter_is_usable_but_for_bfloat16() -> None:
    x, weight, _ = leaves((1, 1, 3, 3), (3, 3))
    assert can_use(x, weight, 1) is None
    assert "bfloat16" in str(can_use(x.bfloat16(), weight, 1))
