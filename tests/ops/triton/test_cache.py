"""Kept Toeplitz matrices are used where they are right, and never where they are not. Interpreted."""

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unireplknet.ops import constant_weights, depthwise_conv2d, use_backend
from unireplknet.ops.triton import cache, conv, depthwise


@pytest.fixture
def spreads(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The matrices that were made, in order."""
    made: list[Tensor] = []
    toeplitz = conv.toeplitz

    def counting(*args, **kwargs) -> Tensor:
        made.append(toeplitz(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(conv, "toeplitz", counting)
    return made


def parameter(dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.randn(2, 1, 5, 5, dtype=dtype))


def check(weight: Tensor, size: int = 6, dtype: torch.dtype = torch.float64) -> None:
    """The call's result is that of the weight as it is now."""
    x = torch.randn(1, 2, size, size, dtype=dtype)
    with torch.inference_mode():
        actual = depthwise.forward(x, weight)
        expected = F.conv2d(x.double(), weight.to(dtype).double(), padding=2, groups=2)
    assert actual.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-2
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


def test_made_once_inside_the_block_and_each_time_outside(spreads: list[Tensor]) -> None:
    weight = parameter()
    for _ in range(2):
        check(weight)
    assert len(spreads) == 2
    with constant_weights():
        for _ in range(3):
            check(weight)
        with constant_weights():
            check(weight)
    assert len(spreads) == 3
    check(weight)
    assert len(spreads) == 4


def test_public_function_and_layers_use_it(spreads: list[Tensor]) -> None:
    layer = nn.Conv2d(2, 2, 5, groups=2).double()
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    with use_backend("triton"), torch.inference_mode(), constant_weights():
        first, second = (depthwise_conv2d(x, layer.weight, layer.bias) for _ in range(2))
    assert torch.equal(first, second)
    assert len(spreads) == 1


def double(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight.mul_(2)


def double_through_a_view(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight[1:].mul_(2)


def load(weight: nn.Parameter) -> None:
    holder = nn.Module()
    holder.weight = weight
    holder.load_state_dict({"weight": torch.randn_like(weight)})


def new_storage(weight: nn.Parameter) -> None:
    weight.data = torch.randn_like(weight)


def other_strides_of_the_same_storage(weight: nn.Parameter) -> None:
    weight.data = weight.data.transpose(2, 3)


@pytest.mark.parametrize(
    "change", [double, double_through_a_view, load, new_storage, other_strides_of_the_same_storage]
)
def test_changed_weights_are_noticed(change: Callable[[nn.Parameter], None], spreads: list[Tensor]) -> None:
    weight = parameter()
    with constant_weights():
        check(weight)
        change(weight)
        check(weight)
        check(weight)
    assert len(spreads) == 2


def test_new_storage_at_the_same_address_is_noticed() -> None:
    random = np.random.default_rng(0)
    memory = random.standard_normal((2, 1, 5, 5))
    weight = nn.Parameter(torch.from_numpy(memory))
    with constant_weights():
        check(weight)
        version, address = weight._version, weight.data_ptr()
        memory[:] = random.standard_normal(memory.shape)
        weight.data = torch.from_numpy(memory)
        assert (weight._version, weight.data_ptr()) == (version, address)
        check(weight)
        memory[:] = random.standard_normal(memory.shape)
        check(nn.Parameter(torch.from_numpy(memory)))


def test_types_and_map_sizes_have_their_own_matrix(spreads: list[Tensor]) -> None:
    weight = parameter(torch.float32)
    with constant_weights():
        check(weight, dtype=torch.float16)
        check(weight, dtype=torch.float16)
        assert [m.dtype for m in spreads] == [torch.float16]
        check(weight, dtype=torch.bfloat16)
        check(weight, size=9, dtype=torch.bfloat16)
        check(weight, size=9)
        assert [m.dtype for m in spreads[1:]] == [torch.bfloat16, torch.bfloat16, torch.float64]
        weight.data = weight.data.half()
        check(weight, size=9, dtype=torch.float16)
    assert len(spreads) == 5


def test_gradients_of_the_input_are_right() -> None:
    """The backward pass turns the kernels, the forward pass after it does not."""
    weight = parameter().requires_grad_(False)
    with use_backend("triton"), constant_weights():
        for _ in range(2):
            x = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
            (actual,) = torch.autograd.grad(depthwise_conv2d(x, weight).square().sum(), x)
            (expected,) = torch.autograd.grad(F.conv2d(x, weight, padding=2, groups=2).square().sum(), x)
            torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["passing tensor", "inference tensor", "graph capture"])
def test_not_kept(kind: str, spreads: list[Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    weight: Tensor = parameter()
    if kind == "passing tensor":
        weight = weight.detach()
    elif kind == "inference tensor":
        with torch.inference_mode():
            weight = parameter()
    else:
        monkeypatch.setattr(cache, "_capturing", lambda weight: True)
    with constant_weights():
        check(weight)
        check(weight)
    assert len(spreads) == 2


def test_memory_is_freed_with_the_weight_and_with_the_block(spreads: list[Tensor]) -> None:
    with constant_weights():
        kept, dropped = parameter(), parameter()
        check(kept)
        check(dropped)
        of_kept, of_dropped = (weakref.ref(matrix) for matrix in spreads)
        spreads.clear()
        del dropped
        gc.collect()
        assert of_kept() is not None
        assert of_dropped() is None
    gc.collect()
    assert of_kept() is None
