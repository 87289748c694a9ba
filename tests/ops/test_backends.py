"""What every backend offers, checked against one definition: nothing is asked of a backend that is not here.

The file runs twice, in this process and in one that interprets Triton's kernels (see ``triton/test_interpreter.py``).
"""

import inspect
import threading

import pytest
import torch
from definition import exactly, relative_error, with_gradients
from torch import Tensor, nn

from unireplknet.ops import backend_report, depthwise_conv2d, use_backend
from unireplknet.ops.backend import BACKENDS, Backend, forced

USABLE = [name for name in BACKENDS if backend_report()[name] is None]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
usable = pytest.mark.parametrize("backend", USABLE)


def operands(
    dtype: torch.dtype, batch: int = 2, kernel: tuple[int, int] = (5, 3)
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(batch, 3, 9, 7).to(dtype)
    return x, torch.randn(3, 1, *kernel).to(dtype), torch.randn(3).to(dtype), torch.randn(x.shape).to(dtype)


def skip_unless_it_runs(backend: str, x: Tensor, weight: Tensor) -> None:
    reason = BACKENDS[backend].can_use(x, weight, 1)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("method", [name for name in vars(Backend) if not name.startswith("_")])
def test_each_backend_has_the_methods_with_their_arguments_in_order(name: str, method: str) -> None:
    wanted = list(inspect.signature(getattr(Backend, method)).parameters)[1:]
    assert list(inspect.signature(getattr(BACKENDS[name], method)).parameters) == wanted


def test_the_interpreter_process_runs_the_triton_backend_too() -> None:
    import os

    assert ("triton" in USABLE) == (os.environ.get("TRITON_INTERPRET") == "1" or torch.cuda.is_available())


@usable
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dilation", [1, 3])
def test_convolution_and_its_gradients(backend: str, dtype: torch.dtype, dilation: int) -> None:
    x, weight, bias, grad = operands(dtype)
    skip_unless_it_runs(backend, x, weight)
    exact = exactly(x, weight, bias, dilation, grad)
    with use_backend(backend):
        got = with_gradients(depthwise_conv2d, x, weight, bias, dilation, grad)
    bound = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == dtype
        assert relative_error(a, b) < bound


@usable
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_weight_gradient_alone(backend: str, dtype: torch.dtype) -> None:
    x, weight, _, grad = operands(dtype)
    skip_unless_it_runs(backend, x, weight)
    exact = exactly(x, weight, None, 2, grad)[2]
    got = BACKENDS[backend].grad_weight(x, grad, (5, 3), 2)
    assert (got.shape, got.dtype) == (weight.shape, dtype)
    bound = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    assert relative_error(got, exact) < bound


@usable
def test_an_empty_batch(backend: str) -> None:
    x, weight, bias, grad = operands(torch.float32, batch=0)
    with use_backend(backend):
        y, grad_x, grad_weight, grad_bias = with_gradients(depthwise_conv2d, x, weight, bias, 1, grad)
    assert y.shape == grad_x.shape == x.shape
    assert not grad_weight.any()
    assert not grad_bias.any()


@usable
def test_channels_last_in_and_out(backend: str) -> None:
    x, weight, bias, grad = operands(torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    with use_backend(backend):
        got = with_gradients(depthwise_conv2d, x, weight, bias, 1, grad)
    assert got[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(got, exactly(x, weight, bias, 1, grad), strict=True):
        assert relative_error(a, b) < 1e-14


@usable
def test_autocast_and_float32_parameters(backend: str) -> None:
    x, weight, bias, grad = operands(torch.float32)
    with use_backend(backend), torch.autocast("cpu", torch.float16):
        got = with_gradients(depthwise_conv2d, x, weight, bias, 1, grad)
    assert [t.dtype for t in got] == [torch.float16, torch.float32, torch.float32, torch.float32]
    for a, b in zip(got, exactly(x, weight, bias, 1, grad), strict=True):
        assert relative_error(a, b) < 4e-3


@usable
def test_second_derivatives(backend: str) -> None:
    inputs = tuple(
        t[:1].detach().requires_grad_() if i == 0 else t.detach().requires_grad_()
        for i, t in enumerate(operands(torch.float64)[:3])
    )
    with use_backend(backend):
        assert torch.autograd.gradgradcheck(lambda *a: depthwise_conv2d(*a, 2), inputs, fast_mode=True)


@usable
def test_a_weight_changed_in_place_is_used_in_the_next_call(backend: str) -> None:
    x, weight, _, _ = operands(torch.float64)
    weight = nn.Parameter(weight)
    with use_backend(backend), torch.no_grad():
        first = depthwise_conv2d(x, weight)
        weight.mul_(2)
        assert relative_error(depthwise_conv2d(x, weight), 2 * first) < 1e-14
        weight.data.mul_(2)
        assert relative_error(depthwise_conv2d(x, weight), 4 * first) < 1e-14


@usable
def test_equal_inputs_give_equal_bits_in_deterministic_mode(backend: str) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        call = operands(torch.float32, batch=5)
        with use_backend(backend):
            first, second = (with_gradients(depthwise_conv2d, *call[:3], 1, call[3]) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_overlapping_blocks_in_threads_leave_nothing_forced() -> None:
    """One thread leaves its block while the other is inside its own."""
    inside, outside = threading.Event(), threading.Event()
    seen = []

    def late() -> None:
        with use_backend("reference"):
            inside.set()
            outside.wait(10)
            seen.append(forced())
        seen.append(forced())

    with use_backend("cpu"):
        thread = threading.Thread(target=late)
        thread.start()
        inside.wait(10)
        assert forced() == "cpu"
    outside.set()
    thread.join()
    assert seen == ["reference", None]
    assert forced() is None
