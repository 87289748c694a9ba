"""Time and memory of calls: timing that survives a busy machine, and a count of bytes that needs no idle one."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def time_each(calls: Mapping[str, Callable[[], Any]], rounds: int = 20) -> dict[str, float]:
    """Time several calls against each other.

    They take turns, so that a disturbance hits all of them, and the minimum counts, which a disturbance cannot lower.

    Args:
        calls: What to time, by name. Each is called once first, uncounted.
        rounds: How often each is timed.

    Returns:
        Shortest wall time of each in seconds.
    """
    best = dict.fromkeys(calls, float("inf"))
    for call in calls.values():
        call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def peak_bytes(call: Callable[[], Any]) -> int:
    """Most bytes of tensors that a call holds at a time beside those that were there before it.

    Counts the storages that PyTorch's operators return, on any device, until they are freed; work space inside an
    operator is not seen.
    """
    with _Held() as held:
        call()
    return held.peak


class _Held(TorchDispatchMode):
    """Adds up the storages that operators make while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_of: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = {storage._cdata for storage in _storages((args, kwargs))}
        for storage in _storages(result):
            if storage._cdata not in given and storage._cdata not in self.bytes_of:
                self.bytes_of[storage._cdata] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata)
        self.peak = max(self.peak, self.now)
        return result

    def _freed(self, key: int) -> None:
        self.now -= self.bytes_of.pop(key)


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    return (leaf.untyped_storage() for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))
