"""Toeplitz matrices of weights that stay as they are from call to call, kept where the caller says that they do.

Nothing is kept unasked. PyTorch's version counter tells of in-place updates, but not of all of them: it misses
writes through ``weight.data`` and FSDP's gathers, and a matrix that is silently out of date would be worse than
the few microseconds that its making takes.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

# One (key, matrix) for each weight: a network on maps of changing size does not fill the memory.
_kept: ContextVar[WeakTensorKeyDictionary | None] = ContextVar("kept", default=None)


@contextmanager
def constant_weights() -> Iterator[None]:
    """Promise that no weight of a depthwise convolution is written inside the block, as in a loop of inference.

    The Triton backend then prepares each parameter once instead of in each call; elsewhere nothing changes. It
    still notices an in-place update that PyTorch's version counter shows, another dtype, device or map size, and
    new storage. It does not notice writes through ``weight.data``. Holds for the current thread; what was
    prepared is freed with its parameter or at the end of the outermost block. Compiled networks keep nothing, since
    memory that is allocated in them may be a CUDA graph's.
    """
    outer = _kept.get()
    token = _kept.set(WeakTensorKeyDictionary() if outer is None else outer)
    try:
        yield
    finally:
        _kept.reset(token)


def keep(weight: Tensor, form: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """The matrix of a weight, the one kept if it is still right.

    Args:
        weight: Kernels as the caller holds them. Only parameters are the same object in the next call.
        form: What else the matrix depends on.
        make: Makes the matrix.

    Returns:
        The matrix.
    """
    kept = _kept.get()
    if kept is None or not isinstance(weight, nn.Parameter) or weight.is_inference() or _capturing(weight):
        return make()
    # The reference keeps the storage's identity, not its memory, from being taken by another.
    storage = StorageWeakRef(weight.untyped_storage())
    stream = torch.cuda.current_stream(weight.device) if weight.is_cuda else None
    layout = weight.storage_offset(), weight.stride(), weight.shape
    key = weight._version, storage, layout, weight.dtype, stream, form
    known = kept.get(weight)
    if known is None or known[0] != key:
        known = kept[weight] = (key, make())
    return known[1]


def _capturing(weight: Tensor) -> bool:
    """A CUDA graph is replayed after weights have changed, and must make the matrix anew each time."""
    return weight.is_cuda and torch.cuda.is_current_stream_capturing()
