"""Fused computations under autocast, which does not look inside them: they convert at the door and switch it off."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# Asked once: up to PyTorch 2.13, a compiled graph breaks at the question.
_AUTOCAST_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "hpu", "mps", "mtia", "xla", "xpu") if torch.amp.is_autocast_available(device)
)


def compute_dtype(x: Tensor) -> torch.dtype:
    """Autocast's dtype where that is on, else the tensor's own.

    Args:
        x: The tensor that autocast would convert.
    """
    # The one question that is cheap on every device comes first.
    if not torch._C._is_any_autocast_enabled() or x.dtype == torch.float64:
        return x.dtype
    device = x.device.type
    enabled = device in _AUTOCAST_DEVICES and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else x.dtype


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Switch autocast off for the device of a tensor.

    Args:
        x: The tensor.
    """
    device = x.device.type
    return torch.autocast(device, enabled=False) if device in _AUTOCAST_DEVICES else nullcontext()
