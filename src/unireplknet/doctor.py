"""What this machine offers."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil

import torch

from unireplknet._version import __version__
from unireplknet.extras import PACKAGES


def examine() -> dict[str, list[str]]:
    """Versions, devices, convolution backends and compiler, as lines for people under a title each."""
    return {
        "versions": _versions(),
        "devices": _devices(),
        "depthwise convolution and blocks": [*_backends(), _c_compiler()],
        "torch.compile on the CPU": [_compiler()],
    }


def _versions() -> list[str]:
    lines = [f"unireplknet {__version__}, python {platform.python_version()}, {platform.platform()}"]
    for name, extra in PACKAGES.items():
        try:
            lines.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f'{name} is missing: pip install "unireplknet[{extra}]"')
    return lines


def _devices() -> list[str]:
    lines = [f"cpu: {torch.get_num_threads()} threads of {os.cpu_count()} cores, {_simd()}"]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            lines.append(f"cuda:{i}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB")
    else:
        built = torch.version.cuda or torch.version.hip
        lines.append(f"cuda: none ({'no usable GPU or driver' if built else 'this torch is built without it'})")
    lines.append(f"mps: {'yes' if torch.backends.mps.is_available() else 'none'}")
    return lines


def _simd() -> str:
    return torch.backends.cpu.get_cpu_capability()


def _backends() -> list[str]:
    from unireplknet.ops import backend_report

    return [f"{name}: {'runs' if reason is None else f'no: {reason}'}" for name, reason in backend_report().items()]


def _c_compiler() -> str:
    from unireplknet.ops import triton

    found = triton.c_compiler()
    return f"C compiler for Triton: {found}" if found else "no C compiler (gcc or clang): Triton cannot run on a GPU"


def _compiler() -> str:
    wanted = os.environ.get("CXX")
    names = [wanted] if wanted else ["cl"] if os.name == "nt" else ["g++", "clang++", "c++"]
    found = next((path for name in names if (path := shutil.which(name))), None)
    return f"C++ compiler: {found}" if found else f"no C++ compiler ({' or '.join(names)}): runs without compiling"
