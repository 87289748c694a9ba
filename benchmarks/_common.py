"""What every benchmark needs: interleaved timing, and a result file that names the machine."""

import datetime
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(
    functions: Mapping[str, Callable[[], Any]], rounds: int = 25, seconds: float = 0.01, limit: float = 3.0
) -> dict[str, float]:
    """Time functions in turn, so that a busy moment hits all of them.

    Args:
        functions: What to time, by name.
        rounds: Turns each function gets.
        seconds: About how long one turn runs, except that it runs at least one call.
        limit: Seconds after which no turn starts beyond the third.

    Returns:
        Seconds a call, the best of all turns, by name.
    """
    calls, best = {}, dict.fromkeys(functions, float("inf"))
    for name, function in functions.items():
        function()
        start = time.perf_counter()
        function()
        calls[name] = max(1, int(seconds / (time.perf_counter() - start)))
    begin = time.perf_counter()
    for turn in range(rounds):
        if turn >= 3 and time.perf_counter() - begin > limit:
            break
        for name, function in functions.items():
            function()  # fills the caches that the others have emptied
            start = time.perf_counter()
            for _ in range(calls[name]):
                function()
            best[name] = min(best[name], (time.perf_counter() - start) / calls[name])
    return best


def settle_allocator() -> None:
    """Bring malloc into the state it has in a running program.

    glibc hands freed memory back to the system until a program has freed a large block once; in a fresh
    process a small benchmark then times page faults instead of arithmetic.
    """
    torch.zeros(31 << 18)


def machine() -> dict[str, Any]:
    """Describe where and with what a benchmark ran."""
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cpu": _cpu_name(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def versions() -> dict[str, str]:
    """Versions of the packages that a training depends on."""
    packages = ("torch", "torchvision", "timm", "lightning", "numpy", "pillow", "scikit-learn")
    return {package: importlib.metadata.version(package) for package in packages}


def write_result(name: str, result: Mapping[str, Any]) -> Path:
    """Write benchmarks/results/<name>.json with the machine's description and return its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **result}, indent=1) + "\n")
    return path


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
