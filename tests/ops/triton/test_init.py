"""What ``can_use`` says, and what the function promises without a card."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from unireplknet.ops import triton as backend


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_says_why_not(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 1, 3, 3, dtype=dtype)
    reason = backend.can_use(x, x, 1)
    assert reason is not None
    assert ("cpu" if dtype == torch.float32 else "int32") in reason


def test_says_that_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_INSTALLED", False)
    x = torch.zeros(1, 1, 3, 3)
    assert "not installed" in str(backend.can_use(x, x, 1))


@pytest.mark.parametrize(("major", "usable"), [(7, False), (8, True), (12, True)])
def test_asks_for_ampere(major: int, usable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reason = reason_on_a_card(monkeypatch, major)
    assert (reason is None) == usable
    assert usable or "8.0" in reason


def test_asks_for_the_c_compiler_that_triton_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", "")
    assert "install gcc or clang, or set CC" in str(reason_on_a_card(monkeypatch, 9))
    monkeypatch.setenv("CC", "cc")
    assert reason_on_a_card(monkeypatch, 9) is None


def reason_on_a_card(monkeypatch: pytest.MonkeyPatch, major: int) -> str | None:
    monkeypatch.setattr(backend, "_card_reasons", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 0))
    with FakeTensorMode():
        x = torch.empty(1, 1, 3, 3, device="cuda")
    return backend.can_use(x, x, 1)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_fake_tensors_have_the_real_form(memory_format: torch.memory_format) -> None:
    with FakeTensorMode():
        x = torch.empty(2, 3, 5, 6, dtype=torch.bfloat16).contiguous(memory_format=memory_format)
        weight = torch.empty(3, 1, 13, 13, requires_grad=True)
        y = backend.depthwise_conv2d(x.requires_grad_(), weight)
        y.sum().backward()
        assert y.is_contiguous(memory_format=memory_format)
        assert (y.shape, y.dtype) == (x.shape, torch.bfloat16)
        assert (x.grad.dtype, weight.grad.dtype, weight.grad.shape) == (
            torch.bfloat16,
            torch.float32,
            weight.shape,
        )


def test_importing_does_not_import_triton() -> None:
    code = "import sys, unireplknet; sys.exit(any('ops.triton.kernels' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
