"""Find the fastest tiles of the Triton kernels on the card that is here, when its owner asks."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from unireplknet.ops.triton import depthwise
from unireplknet.ops.triton.geometry import Kernel
from unireplknet.ops.triton.tiles import Kind, Tiles, candidates, key, load, use_tiles

DEFAULT_FILE = Path("~/.cache/unireplknet/triton-tuned.json")
# Elements of the part of a batch that is checked.
_CHECKED = 2**22
Timer = Callable[[Callable[[], Tensor]], float]


def tune(kind: Kind, x: Tensor, weight: Tensor, grad: Tensor, dilation: int, timer: Timer) -> dict[Tiles, float | str]:
    """Check every candidate against float64, then time those that pass.

    For each candidate, equal inputs still give bit-equal gradients; another tiling sums in another order, so that
    results of two files of tuned tiles differ in the last bits.

    Args:
        kind: "conv", the forward pass and input gradient, or "correlate", the weight gradient.
        x: Input of shape (B, C, H, W); the winner serves every batch size.
        weight: Kernels of shape (C, 1, KH, KW).
        grad: Gradient of the output, like ``x``.
        dilation: Spacing between kernel taps, in pixels.
        timer: Says how long a call takes, in any unit.

    Returns:
        By candidate, the shipped tiles first: its time, or why it was not timed.
    """
    kernel_size = (weight.shape[2], weight.shape[3])
    kernels = (Kernel(*kernel_size, dilation),)
    case = key(kind, x, kernels)
    images = max(1, _CHECKED // x[0].numel())
    part = kind, x[:images], weight, grad[:images], dilation
    exact = _native(*part, torch.float64)
    bound = _bound(exact, _native(*part, x.dtype), x.dtype if kind == "conv" else weight.dtype)
    results: dict[Tiles, float | str] = {}

    def run(images: int | None = None) -> Tensor:
        if kind == "conv":
            return depthwise.forward(x[:images], weight, None, dilation)
        return depthwise.grad_weight(x[:images], grad[:images], kernel_size, dilation, weight.dtype)

    for tiles in candidates(kind, x, kernels):
        with use_tiles({case: tiles}):
            try:
                error = _error(run(images), exact)
                results[tiles] = timer(run) if error <= bound else f"error {error:.1e}, at most {bound:.1e} allowed"
            except (OutOfResources, CompilationError) as reason:
                results[tiles] = str(reason).splitlines()[0]
    return results


def fastest(results: dict[Tiles, float | str]) -> Tiles | None:
    """The winner; None if no candidate passed."""
    times = {tiles: time for tiles, time in results.items() if not isinstance(time, str)}
    return min(times, key=times.__getitem__, default=None)


def save(path: Path, table: dict[str, Tiles]) -> None:
    """Add tiles, by `tiles.key`, to a file; other cards' and shapes' entries in it stay.

    Raises:
        ValueError: The path holds something else.
    """
    merged = (load(path) if path.exists() else {}) | table
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(
        json.dumps({case: tiles._asdict() for case, tiles in merged.items()}, indent=1) + "\n", encoding="utf-8"
    )
    part.replace(path)


def _native(kind: Kind, x: Tensor, weight: Tensor, grad: Tensor, dilation: int, dtype: torch.dtype) -> Tensor:
    """PyTorch's own result in ``dtype``, of weights rounded to the type of ``x`` as the kernels do."""
    x, grad, weight = x.to(dtype), grad.to(dtype), weight.to(x.dtype).to(dtype)
    padding = [size // 2 * dilation for size in weight.shape[2:]]
    if kind == "conv":
        return F.conv2d(x, weight, padding=padding, dilation=dilation, groups=x.shape[1])
    shape = tuple(weight.shape)
    return conv2d_weight(x, shape, grad, padding=padding, dilation=dilation, groups=x.shape[1])


def _bound(exact: Tensor, native: Tensor, result: torch.dtype) -> float:
    """One rounding in half precision, else twice the error of PyTorch's kernel or a floor, the larger of the two."""
    if result.itemsize == 2:
        return torch.finfo(result).eps / 2
    return max(2 * _error(native, exact), 1e-6 if result == torch.float32 else 1e-14)


def _error(actual: Tensor, exact: Tensor) -> float:
    return ((actual.double() - exact).norm() / exact.norm()).item()
