"""Numerics of the launchers against F.conv2d in float64. Interpreted."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unireplknet.ops.triton import depthwise
from unireplknet.ops.triton.launch import recorded

# Batch, channels, height, width, (kernel height, kernel width), dilation.
CASES = [
    pytest.param(2, 3, 7, 7, (13, 13), 1, id="whole planes, misaligned"),
    pytest.param(1, 1, 1, 1, (5, 5), 1, id="one pixel"),
    pytest.param(2, 2, 9, 5, (7, 3), 1, id="taller than wide"),
    pytest.param(3, 2, 6, 5, (31, 31), 1, id="kernel larger than map"),
    pytest.param(1, 2, 14, 14, (13, 13), 1, id="rows in groups"),
    pytest.param(2, 1, 10, 13, (9, 5), 1, id="last group incomplete"),
    pytest.param(1, 2, 28, 28, (13, 13), 1, id="28 px"),
    pytest.param(1, 1, 4, 40, (3, 7), 1, id="between narrow and wide"),
    pytest.param(2, 1, 3, 70, (5, 13), 1, id="wide"),
    pytest.param(1, 1, 2, 75, (3, 51), 1, id="wide, window in parts"),
    pytest.param(2, 2, 12, 11, (3, 3), 5, id="dilated"),
    pytest.param(1, 2, 3, 20, (7, 5), 2, id="dilated, rows skipped"),
    pytest.param(1, 1, 5, 70, (5, 5), 3, id="dilated, wide"),
    pytest.param(70, 1, 5, 3, (3, 3), 1, id="several tiles of rows"),
    pytest.param(2, 2, 6, 7, (1, 1), 1, id="one tap"),
]
KERNELS = [3, 9, 17, 31]
LARGE = [(7, 7), (14, 14), (28, 28), (17, 56), (9, 100)]


def tensors(shape, kernel_size, dtype, weight_dtype=None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    channels = shape[1]
    x, grad = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    weight = torch.randn(channels, 1, *kernel_size, dtype=weight_dtype or dtype)
    return x, weight, torch.randn(channels, dtype=weight_dtype or dtype), grad


def reference(x, weight, bias, grad, dilation, dtype=torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Output, input gradient, weight gradient."""
    x, weight = x.detach().to(dtype).requires_grad_(), weight.detach().to(dtype).requires_grad_()
    padding = [k // 2 * dilation for k in weight.shape[2:]]
    y = F.conv2d(x, weight, bias.to(dtype), padding=padding, dilation=dilation, groups=x.shape[1])
    return y.detach(), *torch.autograd.grad(y, (x, weight), grad.to(dtype))


def ours(x, weight, bias, grad, dilation) -> tuple[Tensor, Tensor, Tensor]:
    kernel_size = tuple(weight.shape[2:])
    return (
        depthwise.forward(x, weight, bias, dilation),
        depthwise.forward(grad, weight, None, dilation, flip=True),
        depthwise.grad_weight(x, grad, kernel_size, dilation, weight.dtype),
    )


def error(actual: Tensor, expected: Tensor) -> float:
    """Root mean square error relative to the root mean square of the truth."""
    return ((actual.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize(("batch", "channels", "height", "width", "kernel_size", "dilation"), CASES)
def test_float64_is_exact(batch, channels, height, width, kernel_size, dilation) -> None:
    inputs = tensors((batch, channels, height, width), kernel_size, torch.float64)
    for actual, expected in zip(ours(*inputs, dilation), reference(*inputs, dilation), strict=True):
        assert error(actual, expected) < 1e-14


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernel_sizes(kernel: int) -> None:
    inputs = tensors((2, 2, 11, 12), (kernel, kernel), torch.float64)
    for actual, expected in zip(ours(*inputs, 1), reference(*inputs, 1), strict=True):
        assert error(actual, expected) < 1e-14


@pytest.mark.slow
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("kernel", range(3, 33, 2))
def test_every_kernel_size_on_the_models_maps(kernel: int, size: tuple[int, int]) -> None:
    inputs = tensors((2, 1, *size), (kernel, kernel), torch.float64)
    for actual, expected in zip(ours(*inputs, 1), reference(*inputs, 1), strict=True):
        assert error(actual, expected) < 1e-13


@pytest.mark.parametrize(
    ("batch", "channels", "height", "width", "kernel_size", "dilation"), [CASES[i] for i in (0, 4, 6, 8, 10)]
)
def test_float32_is_as_accurate_as_the_native_kernel(batch, channels, height, width, kernel_size, dilation) -> None:
    """The three tf32 products of a card, which the interpreter is made to follow."""
    inputs = tensors((batch, channels, height, width), kernel_size, torch.float32)
    native = reference(*inputs, dilation, dtype=torch.float32)
    for actual, other, expected in zip(ours(*inputs, dilation), native, reference(*inputs, dilation), strict=True):
        assert error(actual, expected) < max(2 * error(other, expected), 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("batch", "channels", "height", "width", "kernel_size", "dilation"), [CASES[i] for i in (0, 4, 8, 10, 13)]
)
def test_half_precision_rounds_once(dtype, batch, channels, height, width, kernel_size, dilation) -> None:
    """float32 kernels are rounded to the activations' type; their gradient is not."""
    x, weight, bias, grad = tensors((batch, channels, height, width), kernel_size, dtype, torch.float32)
    y, grad_x, grad_weight = ours(x, weight, bias, grad, dilation)
    assert (y.dtype, grad_x.dtype, grad_weight.dtype) == (dtype, dtype, torch.float32)
    expected = reference(x, weight.to(dtype), bias, grad, dilation)
    one_rounding = torch.finfo(dtype).eps / 2
    assert error(y, expected[0]) < one_rounding
    assert error(grad_x, expected[1]) < one_rounding
    assert error(grad_weight, expected[2]) < 1e-6


def test_slices_of_larger_tensors() -> None:
    x, weight, bias, grad = tensors((4, 6, 9, 12), (5, 3), torch.float64)
    inputs = x[1::2, ::3, 2:, 1:-1], weight[::3], bias[::3], grad[1::2, ::3, 2:, 1:-1]
    assert not any(t.is_contiguous() for t in inputs)
    for actual, expected in zip(ours(*inputs, 1), reference(*inputs, 1), strict=True):
        assert error(actual, expected) < 1e-14


def test_start_of_storage_is_not_aligned() -> None:
    x, weight, bias, grad = tensors((1, 2, 7, 7), (5, 5), torch.float64)
    x = torch.cat([x.new_zeros(1), x.flatten()])[1:].view(1, 2, 7, 7)
    for actual, expected in zip(ours(x, weight, bias, grad, 1), reference(x, weight, bias, grad, 1), strict=True):
        assert error(actual, expected) < 1e-14


def test_empty_batch() -> None:
    inputs = tensors((0, 2, 5, 5), (3, 3), torch.float32)
    y, grad_x, grad_weight = ours(*inputs, 1)
    assert y.shape == grad_x.shape == (0, 2, 5, 5)
    assert torch.equal(grad_weight, torch.zeros(2, 1, 3, 3))


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_one_channels_values_do_not_reach_another() -> None:
    """At 7 px a window starts inside the plane before and ends inside the plane after."""
    x, weight, bias, grad = tensors((2, 3, 7, 7), (5, 5), torch.float32)
    x[:, 1], grad[:, 1] = float("nan"), float("inf")
    for result in ours(x, weight, bias, grad, 1):
        planes = result.transpose(0, 1) if result.shape[0] == 2 else result
        assert planes[[0, 2]].isfinite().all()
        assert not planes[1].isfinite().any()


def test_equal_inputs_give_equal_bits_whatever_the_split() -> None:
    x, _, _, grad = tensors((40, 1, 10, 10), (5, 5), torch.float32)
    with recorded() as launches:
        depthwise.grad_weight(x, grad, (5, 5))
    assert launches[0].named["partial_ptr"].shape[0] > 1
    first, second = (depthwise.grad_weight(x, grad, (5, 5)) for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("op", ["conv", "correlate"])
def test_opcheck(op: str) -> None:
    x, weight, bias, grad = tensors((2, 2, 5, 6), (3, 5), torch.float32)
    strided = grad.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2)
    if op == "conv":
        torch.library.opcheck(torch.ops.unireplknet.conv, (x, weight, bias, 1, False, True))
        torch.library.opcheck(torch.ops.unireplknet.conv, (strided, weight, None, 2, True, False))
    else:
        args = (x, strided, (3, 5), 2, torch.float32)
        torch.library.opcheck(torch.ops.unireplknet.correlate, args)
