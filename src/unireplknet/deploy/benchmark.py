"""Time and memory of calls: timing that survives a busy machine, and a count of bytes that needs no idle one."""

from __future__ import annotations

import datetime
import math
import os
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unireplknet.deploy.disturbance import load_average, machine_seconds


@dataclass(frozen=True)
class Clocks:
    """What time is read from.

    Attributes:
        wall: Seconds that pass.
        cpu: Seconds of CPU time of this process, over all its threads.
        machine: Seconds of CPU time of the whole machine, over all its cores; None where nobody tells.
    """

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    machine: Callable[[], float | None] = machine_seconds


@dataclass
class Timing:
    """What the turns of one contender took.

    Attributes:
        calls: Calls of a turn.
        wall: Seconds a call, of each turn.
        cpu: Seconds of CPU time a call, over all threads, of each turn.
    """

    calls: int
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def best(self) -> float:
        """Shortest time of a call: a disturbance cannot lower it."""
        return min(self.wall)

    @property
    def median(self) -> float:
        """Median time of a call."""
        return statistics.median(self.wall)


@dataclass
class Turns:
    """What :func:`take_turns` found.

    Attributes:
        timings: Of each contender that finished.
        others: Cores that other processes kept busy, on average over each round; empty where nobody tells.
    """

    timings: dict[str, Timing]
    others: list[float] = field(default_factory=list)

    def best(self) -> dict[str, float]:
        """Shortest time of a call of each, in seconds."""
        return {name: timing.best for name, timing in self.timings.items()}


def take_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int = 20,
    seconds: float = 0.0,
    limit: float = math.inf,
    clocks: Clocks | None = None,
    wait: Callable[[], None] | None = None,
    failed: Callable[[str, Exception], None] | None = None,
) -> Turns:
    """Time several calls against each other: in turn, so that a disturbance hits all of them.

    Each is called once uncounted at first, and once before each of its turns, to fill the caches that the others have
    emptied.

    Args:
        calls: What to time, by name.
        rounds: Turns of each.
        seconds: About how long a turn runs, except that it is at least one call.
        limit: Seconds after which no round starts beyond the third.
        clocks: What time is read from; by default the system's.
        wait: Returns once the device has done what the calls asked of it; not needed on the CPU.
        failed: Receives the name and error of a call that fails, which then takes no further turn and is not in the
            result. By default the error is raised.

    Returns:
        The times.
    """
    clocks, wait = clocks or Clocks(), wait or _nothing
    calls, timings, others = dict(calls), dict[str, Timing](), list[float]()

    def turn(name: str, count: int) -> tuple[float, float] | None:
        try:
            calls[name]()
            wait()
            cpu, wall = clocks.cpu(), clocks.wall()
            for _ in range(count):
                calls[name]()
            wait()
        except Exception as error:
            if failed is None:
                raise
            failed(name, error)
            del calls[name]
            timings.pop(name, None)
            return None
        return (clocks.wall() - wall) / count, (clocks.cpu() - cpu) / count

    for name in list(calls):
        if first := turn(name, 1):
            timings[name] = Timing(max(1, int(seconds / max(first[0], 1e-9))))
    begin = clocks.wall()
    for number in range(rounds):
        if number >= 3 and clocks.wall() - begin > limit:
            break
        machine, cpu, wall = clocks.machine(), clocks.cpu(), clocks.wall()
        for name in list(calls):
            if found := turn(name, timings[name].calls):
                timings[name].wall.append(found[0])
                timings[name].cpu.append(found[1])
        passed, used, now = clocks.wall() - wall, clocks.cpu() - cpu, clocks.machine()
        if machine is not None and now is not None and passed > 0:
            others.append(max(0.0, now - machine - used) / passed)
    return Turns(timings, others)


def _nothing() -> None:
    """Wait for the CPU, which is done when a call returns."""


def describe_machine() -> dict[str, Any]:
    """Where, when and with what a benchmark runs."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": load_average(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


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
