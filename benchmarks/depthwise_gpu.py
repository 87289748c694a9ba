"""Time the Triton depthwise convolution on this machine's card, after checking it there against float64.

    python benchmarks/depthwise_gpu.py            # every shape
    python benchmarks/depthwise_gpu.py --quick    # one shape of each stage
    python benchmarks/depthwise_gpu.py --tune     # find this card's fastest tiles instead, and keep them

Times forward and backward against F.conv2d in both layouts, eager and under torch.compile, in one process
with the contenders interleaved. A shape that fails its check is reported and not timed. Writes
results/depthwise-<card>-torch<version>-triton<version>.json beside this file. Refuses to run without a card.
"""

import argparse
import datetime
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.testing import do_bench

from unireplknet.ops import depthwise_conv2d
from unireplknet.ops.triton import can_use, tiles, tuning
from unireplknet.ops.triton.geometry import Kernel

# Batch, channels, height, width, kernel.
QUICK = [(128, 160, 28, 28, 13), (128, 320, 14, 14, 13), (128, 640, 7, 7, 13)]
SHAPES = [
    *QUICK,
    (128, 80, 56, 56, 3),
    (128, 96, 56, 56, 7),
    (2, 160, 100, 168, 13),
    (64, 384, 32, 32, 31),
    (8, 160, 28, 28, 13),
    (8, 320, 14, 14, 13),
    (8, 640, 7, 7, 13),
    (1, 320, 14, 14, 13),
    (128, 160, 28, 28, 7),
    (128, 160, 28, 28, 3),
]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]
ROUNDS = 5
Conv = Callable[[Tensor, Tensor], Tensor]


def native(x: Tensor, weight: Tensor) -> Tensor:
    """What the kernels compete with, under autocast's rule for the weight's type."""
    return F.conv2d(x, weight.to(x.dtype), padding=weight.shape[2] // 2, groups=x.shape[1])


def gradients(conv: Conv, x: Tensor, weight: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    """Output, input gradient, weight gradient."""
    y = conv(x, weight)
    return y, *torch.autograd.grad(y, (x, weight), grad)


def check(x: Tensor, weight: Tensor, grad: Tensor) -> tuple[dict[str, float], bool]:
    """Relative RMS errors against float64, and whether each is within its bound.

    The bound is one rounding of the output's type in half precision, and in float32 twice the error of
    F.conv2d or 1e-6, whichever is larger. Large batches are checked on their first images.
    """
    images = max(1, min(x.shape[0], 2**22 // x[0].numel()))
    x, grad = x[:images].detach().requires_grad_(), grad[:images]
    exact_x, exact_weight = (
        x.detach().double().requires_grad_(),
        weight.detach().to(x.dtype).double().requires_grad_(),
    )
    truth = gradients(native, exact_x, exact_weight, grad.double())
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    ours, theirs = gradients(depthwise_conv2d, x, weight, grad), gradients(native, x, weight, grad)
    torch.backends.cudnn.allow_tf32 = tf32
    errors: dict[str, float] = {}
    within = True
    for name, mine, other, exact in zip(("y", "grad_x", "grad_weight"), ours, theirs, truth, strict=True):
        mine_error, other_error = (((t.double() - exact).norm() / exact.norm()).item() for t in (mine, other))
        rounding = torch.finfo(mine.dtype).eps / 2 if mine.dtype.itemsize == 2 else 1e-6
        errors |= {name: mine_error, f"{name} of F.conv2d": other_error}
        within &= mine_error <= max(rounding, 2 * other_error if mine.dtype == torch.float32 else 0)
    first, second = (gradients(depthwise_conv2d, x, weight, grad) for _ in range(2))
    errors["repeats bit for bit"] = float(all(torch.equal(a, b) for a, b in zip(first, second, strict=True)))
    return errors, within and errors["repeats bit for bit"] == 1.0


def time_shape(x: Tensor, weight: Tensor, grad: Tensor) -> dict[str, dict[str, float]]:
    """Median milliseconds of the fastest round, forward and backward, per contender."""
    compiled: dict[str, Conv] = {
        "triton": depthwise_conv2d,
        "triton, compiled": torch.compile(depthwise_conv2d, fullgraph=True),
        "conv2d NCHW": native,
        "conv2d NHWC": native,
        "conv2d NCHW, compiled": torch.compile(native, fullgraph=True),
        "conv2d NHWC, compiled": torch.compile(native, fullgraph=True),
        "triton, NHWC in and out": depthwise_conv2d,
    }
    work: dict[str, dict[str, Callable[[], Any]]] = {}
    for name, conv in compiled.items():
        layout = torch.channels_last if "NHWC" in name else torch.contiguous_format
        x_in = x.detach().contiguous(memory_format=layout).requires_grad_()
        g_in = grad.contiguous(memory_format=layout)
        y = conv(x_in, weight)
        work[name] = {
            "forward": lambda conv=conv, x_in=x_in: conv(x_in.detach(), weight.detach()),
            "backward": lambda y=y, x_in=x_in, g_in=g_in: torch.autograd.grad(
                y, (x_in, weight), g_in, retain_graph=True
            ),
        }
    rounds: dict[str, dict[str, list[float]]] = {n: {"forward": [], "backward": []} for n in work}
    for _ in range(ROUNDS):
        for name, passes in work.items():
            for part, call in passes.items():
                rounds[name][part].append(do_bench(call, warmup=10, rep=50, return_mode="median"))
    return {n: {p: round(min(times), 5) for p, times in parts.items()} for n, parts in rounds.items()}


def bandwidth() -> float:
    """Bytes per second of a large copy, counting the read and the write."""
    source = torch.empty(2**29, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (do_bench(lambda: target.copy_(source), return_mode="median") / 1e3)


def tune(shapes: list[tuple[int, int, int, int, int]], path: Path) -> int:
    """Keep the fastest tiles of each shape that pass their check, after each shape."""
    try:
        tuning.save(path, {})  # a file that cannot be used is found out before anything is timed
    except (OSError, ValueError) as error:
        print(f"{path} cannot hold tuned tiles: {error}", file=sys.stderr)
        return 1
    tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    for dtype in DTYPES:
        for batch, channels, height, width, kernel in shapes:
            x = torch.randn(batch, channels, height, width, device="cuda", dtype=dtype)
            weight = torch.randn(channels, 1, kernel, kernel, device="cuda")
            if reason := can_use(x, weight, 1):
                print(f"not run: {reason}")
                continue
            kinds: tuple[tiles.Kind, ...] = ("conv", "correlate")
            for kind in kinds:
                case = tiles.key(kind, x, (Kernel(kernel, kernel),))
                results = tuning.tune(kind, x, weight, torch.randn_like(x), 1, lambda call: do_bench(call))
                print(case, *(f"    {tried}: {result}" for tried, result in results.items()), sep="\n")
                if winner := tuning.fastest(results):
                    tuning.save(path, {case: winner})
    torch.backends.cudnn.allow_tf32 = tf32
    print(f"to use them: UNIREPLKNET_TRITON_TUNED={path}")
    return 0


def main() -> int:
    """Check, time, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one shape of each stage")
    parser.add_argument("--tune", nargs="?", type=Path, const=tuning.DEFAULT_FILE, metavar="FILE")
    arguments = parser.parse_args()
    shapes = QUICK if arguments.quick else SHAPES
    if not torch.cuda.is_available():
        print("needs a CUDA or ROCm card; PyTorch sees none", file=sys.stderr)
        return 1
    torch.manual_seed(0)
    if arguments.tune:
        return tune(shapes, arguments.tune.expanduser())
    card = torch.cuda.get_device_name()
    copy = bandwidth()
    entries = []
    failed = 0
    for dtype in DTYPES:
        for batch, channels, height, width, kernel in shapes:
            shape = (batch, channels, height, width)
            x = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=True)
            weight = torch.randn(channels, 1, kernel, kernel, device="cuda", requires_grad=True)
            grad = torch.randn_like(x)
            entry: dict[str, Any] = {"shape": (*shape, kernel), "dtype": str(dtype).removeprefix("torch.")}
            if reason := can_use(x, weight, 1):
                entry["not run"] = reason
            else:
                entry["errors"], within = check(x, weight, grad)
                if within:
                    # Forward reads x and writes y; backward reads x and grad and writes grad_x.
                    entry["roof_ms"] = {
                        part: passes * x.nbytes / copy * 1e3 for part, passes in (("forward", 2), ("backward", 3))
                    }
                    entry["ms"] = time_shape(x, weight, grad)
                else:
                    failed += 1
                    entry["not timed"] = "the check against float64 failed"
            print(json.dumps(entry))
            entries.append(entry)
            torch.compiler.reset()
    result = {
        "card": card,
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cudnn": torch.backends.cudnn.version(),
        "copy_bytes_per_second": round(copy),
        "method": f"triton.testing.do_bench, median of 50 ms, least of {ROUNDS} interleaved rounds",
        "entries": entries,
    }
    name = re.sub(r"[^\w.+-]+", "-", f"depthwise-{card}-torch{torch.__version__}-triton{triton.__version__}")
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
