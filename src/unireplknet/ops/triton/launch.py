"""Launching Triton kernels: cheaply from the second call on, and how to see the launches of a computation."""

import threading
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unireplknet.ops.triton.library import LAUNCHERS, NAMESPACE

# Before this version compiled kernels took their arguments in another form.
_CAN_REPLAY = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 3)
# Programs that are kept; networks on maps of ever changing size start anew now and then.
_MOST_PROGRAMS = 4096


class Launch(NamedTuple):
    """One kernel launch: everything that a card, the interpreter or the ahead-of-time compiler needs."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    num_warps: int

    @property
    def named(self) -> dict[str, Any]:
        """Arguments by the kernel's names for them."""
        return dict(zip(self.kernel.arg_names, self.arguments, strict=True))

    @property
    def bytes(self) -> int:
        """Bytes of all tensors, each read or written once; one that is read and written is given twice."""
        return sum(argument.nbytes for argument in self.arguments if isinstance(argument, Tensor))


_records: list[list[Launch]] = []


@contextmanager
def recorded() -> Iterator[list[Launch]]:
    """Collect the launches inside the block instead of running them.

    Tensors may then be on any device, fake or meta: launches can be counted, and compiled, without a card.

    Yields:
        The launches so far.
    """
    record: list[Launch] = []
    _records.append(record)
    try:
        yield record
    finally:
        # By identity: two records may be equal, and launches compare their tensors.
        del _records[next(i for i, other in enumerate(_records) if other is record)]


class LaunchRecorder(TorchDispatchMode):
    """Mode that runs our operators on meta tensors as on a card's, and collects what they would launch.

    Without it an operator on the meta device is its fake implementation.

    Attributes:
        launches: The launches so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[Launch] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace != NAMESPACE:
            return func(*args, **(kwargs or {}))
        with self, recorded() as launches:
            result = LAUNCHERS[func._schema.name.split("::")[1]](*args, **(kwargs or {}))
        self.launches += launches
        return result


# Triton finds the compiled kernel of a call by its arguments, which takes several times as long as launching it. An
# operator launches the same kernels in the same order whenever its own arguments have the same form, so it asks Triton
# once for each form and keeps the answers, a program.
_programs: dict[Hashable, list[Any]] = {}
_current = threading.local()


class Running:
    """Context in which an operator launches its kernels: on the card of a tensor, by a program if there is one.

    Args:
        name: Names the operator.
        x: A tensor on the operator's device.
        arguments: All else that decides which kernels are launched, and for what Triton compiles them anew: tensors,
            None, numbers, shapes.
        replay: Whether ``arguments`` are all that decides.
    """

    def __init__(self, name: str, x: Tensor, *arguments: Any, replay: bool = True) -> None:
        self._device: Any = None
        self._form: Hashable = None
        self._known: list[Any] | None = None
        if _runs_on_card(x):
            if x.get_device() != torch.cuda.current_device():
                self._device = torch.cuda.device(x.device)
            if replay and _CAN_REPLAY:
                self._form = name, x.device, x.shape, _form(x, *arguments)
                self._known = _programs.get(self._form)
        self._compiled: list[Any] = []
        self._next = 0

    def __enter__(self) -> None:
        if self._device is not None:
            self._device.__enter__()
        if self._known is not None:
            self._stream = torch.cuda.current_stream().cuda_stream
        self._outer = getattr(_current, "running", None)
        _current.running = self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.running = self._outer
        if self._device is not None:
            self._device.__exit__(kind, error, trace)
        # The interpreter compiles nothing that could be launched again.
        done = kind is None and None not in self._compiled
        if done and self._form is not None and self._known is None:
            if len(_programs) >= _MOST_PROGRAMS:
                _programs.clear()
            _programs[self._form] = self._compiled

    def launch(self, kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], num_warps: int) -> None:
        """Launch the program's next kernel, or let Triton find it."""
        if self._known is not None:
            compiled = self._known[self._next]
            self._next += 1
            # Addresses spare Triton a question to the driver for each tensor.
            values = [a.data_ptr() if isinstance(a, Tensor) else a for a in arguments]
            compiled[(*grid, 1, 1)](*values, stream=self._stream)
        else:
            self._compiled.append(kernel[grid](*arguments, num_warps=num_warps))


def _runs_on_card(x: Tensor) -> bool:
    return x.is_cuda and not _records


def _form(*arguments: Any) -> Hashable:
    """What decides launches: dtypes, shapes and alignment of tensors, and everything else as it is."""
    return tuple([(a.dtype, a.shape, a.data_ptr() & 15) if isinstance(a, Tensor) else a for a in arguments])


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4) -> None:
    """Launch a kernel.

    Args:
        kernel: The kernel.
        grid: Programs in each dimension.
        arguments: The kernel's arguments, in order.
        num_warps: Warps of a program.
    """
    if _records:
        _records[-1].append(Launch(kernel, grid, arguments, num_warps))
        return
    running = getattr(_current, "running", None)
    if running is None:
        kernel[grid](*arguments, num_warps=num_warps)
    else:
        running.launch(kernel, grid, arguments, num_warps)
