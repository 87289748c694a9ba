"""What every benchmark needs: interleaved timing, and a result file that names the machine."""

import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from unireplknet.deploy.benchmark import describe_machine as machine
from unireplknet.deploy.benchmark import take_turns

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
    return take_turns(functions, rounds, seconds, limit).best()


def settle_allocator() -> None:
    """Bring malloc into the state it has in a running program.

    glibc hands freed memory back to the system until a program has freed a large block once; in a fresh
    process a small benchmark then times page faults instead of arithmetic.
    """
    torch.zeros(31 << 18)


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
