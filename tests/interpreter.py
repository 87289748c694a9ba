"""Lets Triton's interpreter compute as a card does; a plugin of the process that interprets kernels."""

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle


def _round_to_tf32(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def _dot_as_tensor_cores_do(self, a, b, acc, precision, max_imprecise):
    """The interpreter multiplies the bits of bfloat16, and float32 where a card splits it in tf32."""
    left, right = (
        (h.data.astype(np.uint32) << 16).view(np.float32) if h.dtype.scalar == tl.bfloat16 else h.data for h in (a, b)
    )
    if a.dtype.scalar == tl.float32 and precision.name == "TF32x3":
        big_left, big_right = _round_to_tf32(left), _round_to_tf32(right)
        small_left, small_right = _round_to_tf32(left - big_left), _round_to_tf32(right - big_right)
        product = small_left @ big_right + big_left @ small_right + big_left @ big_right
    else:
        product = np.matmul(left, right, dtype=acc.data.dtype)
    return TensorHandle(product + acc.data, acc.dtype.scalar)


def _truncate_as_cards_do(self, source, target):
    """The interpreter cuts float32 off at bfloat16 where a card rounds to nearest."""
    if target.scalar == tl.bfloat16:
        bits = torch.from_numpy(source.data.astype(np.float32)).bfloat16().view(torch.uint16).numpy()
        return TensorHandle(bits, tl.bfloat16)
    return self.cast_impl(source, target)


@pytest.fixture(autouse=True)
def _arithmetic_of_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InterpreterBuilder, "create_dot", _dot_as_tensor_cores_do)
    monkeypatch.setattr(InterpreterBuilder, "create_fp_trunc", _truncate_as_cards_do)


@pytest.fixture(autouse=True)
def _poison_uninitialised_memory():
    """In this mode PyTorch fills what ``torch.empty`` returns with NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
