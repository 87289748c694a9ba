"""Whether a machine was busy with other things while something was timed on it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

OTHERS = 0.05
"""Part of the machine's cores that other processes may keep busy."""

LOAD = 0.3
"""Load average a core before the start. It decays within minutes: what has just ended still counts."""

SPREAD = 0.1
"""How far the median of the turns may lie above the shortest one."""

WAITING = 1.1
"""Wall time over CPU time from which a single thread has waited, and how far its median may lie above its minimum."""


def machine_seconds() -> float | None:
    """CPU time that the whole machine has spent at work, over all cores; None without psutil.

    It includes what a hypervisor gave to other virtual machines, as far as the system knows.
    """
    try:
        import psutil
    except ImportError:
        return None
    times = psutil.cpu_times()
    return sum(getattr(times, part, 0.0) for part in ("user", "nice", "system", "irq", "softirq", "steal"))


def load_average() -> float | None:
    """Threads that wanted to run, on average over the last minute; None on systems that do not count them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def of_machine(others: Sequence[float], load: float | None, cores: int) -> list[str]:
    """Reasons to think that the machine had other things to do.

    Args:
        others: Cores that other processes kept busy, for each round; empty where unknown.
        load: Load average before the start, where known.
        cores: Cores of the machine.
    """
    reasons = []
    if others and statistics.mean(others) > OTHERS * cores:
        reasons.append(f"other processes took {statistics.mean(others):.2f} of {cores} cores")
    if load is not None and load > LOAD * cores:
        reasons.append(f"load average {load:.1f} on {cores} cores before the start")
    return reasons


def of_turns(wall: Sequence[float], cpu: Sequence[float], on_cpu: bool = True) -> list[str]:
    """Reasons to think that the turns of one contender were disturbed.

    Args:
        wall: Seconds of each turn.
        cpu: CPU time of each turn, over all threads.
        on_cpu: Whether the CPU does the work, so that CPU time lags only where the process waits.
    """
    reasons = []
    spread = statistics.median(wall) / min(wall) - 1
    if spread > SPREAD:
        reasons.append(f"median {spread:.0%} over minimum")
    if on_cpu and min(cpu) > 0:
        ratios = [w / c for w, c in zip(wall, cpu, strict=True)]
        typical, least = statistics.median(ratios), min(ratios)
        if typical > WAITING or typical > WAITING * least:
            reasons.append(f"it waited: wall/CPU {typical:.2f}, at best {least:.2f}")
    return reasons
