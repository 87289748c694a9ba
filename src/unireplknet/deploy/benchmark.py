"""Timing that survives a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any


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
