"""What the compiler makes of the Triton kernels, and how fast a card could issue that. An ESTIMATE.

    python benchmarks/triton_static_report.py

Compiles the launches of the model's convolutions for an A100, an H100 and an RTX 5090; needs no card.
Counts registers, shared memory and the instructions that a warp issues, and derives lower bounds on the time:

- memory roof: reading the inputs and writing the outputs once, at the card's published bandwidth;
- memory bound: that, and the scratch (Toeplitz matrices, partial sums) written and read once;
- issue bound: all instructions of all warps, at one per scheduler and clock, four schedulers an SM;
- matrix bound: the products of the Toeplitz form at the published dense rate.

The main loop counts as often as its products need; code without products counts once as it stands.
Latency, cache misses, bank conflicts and launch costs are left out, so a card will be slower than each bound.
No number here is a measurement. Writes results/triton-static-<triton version>.json beside this file.
"""

import datetime
import json
import platform
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from triton.backends.compiler import GPUTarget

from unireplknet.ops.triton import ops
from unireplknet.ops.triton.inspection import compile_launch


class Card(NamedTuple):
    """Published figures: SMs, boost clock in GHz, TB/s, dense TFLOP/s in bfloat16 and tf32 (fp32 sums)."""

    name: str
    arch: int
    sms: int
    clock: float
    bandwidth: float
    tflops: dict[torch.dtype, float]


CARDS = [
    Card("A100 SXM 80GB", 80, 108, 1.41, 2.04, {torch.bfloat16: 312, torch.float32: 156}),
    Card("H100 SXM 80GB", 90, 132, 1.83, 3.35, {torch.bfloat16: 989, torch.float32: 494}),
    Card("RTX 5090", 120, 170, 2.41, 1.79, {torch.bfloat16: 209, torch.float32: 105}),
]
# Batch, channels, height, width, kernel.
SHAPES = [
    (128, 80, 56, 56, 3),
    (128, 160, 28, 28, 13),
    (128, 320, 14, 14, 13),
    (128, 640, 7, 7, 13),
    (2, 160, 100, 168, 13),
    (64, 384, 32, 32, 31),
]


def report(card: Card, shape: tuple[int, ...], dtype: torch.dtype, part: str) -> dict[str, Any]:
    """Bounds in microseconds for one pass, its launches summed, and the figures of each launch."""
    batch, channels, height, width, kernel = shape
    with torch.device("meta"):
        x, weight = (
            torch.empty(batch, channels, height, width, dtype=dtype),
            torch.empty(channels, 1, kernel, kernel),
        )
    if part == "forward":
        launches = ops.conv_launches(x, weight, None, x, 1, flip=False)
    else:
        launches = ops.grad_weight_launches(x, x, weight, 1)
    rows, issue, flops = [], 0.0, 0.0
    for launch in launches:
        built = compile_launch(launch, GPUTarget("cuda", card.arch, 32))
        steps = launch.args.get("tiles_per_split", launch.args["G"].steps) if "x_ptr" in launch.args else 0
        programs = 1
        for size in launch.grid:
            programs *= size
        issued = built.executed(steps)
        microseconds = issued * launch.num_warps * programs / (card.sms * 4 * card.clock * 1e3)
        issue += microseconds
        flops += 2 * built.macs_per_step * launch.num_warps * steps * programs
        rows.append(
            {
                "kernel": launch.kernel.fn.__name__,
                "programs": programs,
                "warps": launch.num_warps,
                "registers": built.registers,
                "shared_bytes": built.shared_bytes,
                "local_bytes": built.local_bytes,
                "instructions": len(built.instructions),
                "issued_per_warp": round(issued),
                "loads": sorted(built.mnemonics("LDG.", "LDGSTS")),
                "matrix": sorted(built.mnemonics("HMMA", "HGMMA")),
                "issue_us": round(microseconds, 1),
            }
        )
    scratch = launches[0].args["toeplitz_ptr"] if part == "forward" else launches[1].args["partial_ptr"]
    needed = 2 * x.nbytes + weight.nbytes
    roof, memory = (b / card.bandwidth / 1e6 for b in (needed, needed + 2 * scratch.nbytes))
    matrix = flops / card.tflops[dtype] / 1e6
    return {
        "card": card.name,
        "shape": shape,
        "dtype": str(dtype).removeprefix("torch."),
        "part": part,
        "memory_roof_us": round(roof, 1),
        "memory_bound_us": round(memory, 1),
        "issue_bound_us": round(issue, 1),
        "matrix_bound_us": round(matrix, 1),
        "estimate_over_roof": round(max(issue, matrix, memory) / roof, 2),
        "launches": rows,
    }


def main() -> None:
    """Write the report and print its table."""
    entries = [
        report(card, shape, dtype, part)
        for card in CARDS
        for dtype in (torch.bfloat16, torch.float32)
        for shape in SHAPES
        for part in ("forward", "weight gradient")
    ]
    print("Estimates from compiled code, not measurements. Times in us.")
    columns = ["card", "shape", "dtype", "part", *(k for k in entries[0] if k.endswith(("_us", "_roof")))]
    widths = [14, 20, 9, 16] + [len(name) for name in columns[4:]]
    print(*(f"{name:{width}}" for name, width in zip(columns, widths, strict=True)))
    for entry in entries:
        cells = [entry["card"], ",".join(map(str, entry["shape"])), *(entry[name] for name in columns[2:])]
        print(*(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=True)))
    result = {
        "what": "ESTIMATE from ahead-of-time compiled code; nothing here was timed on a card",
        "date": datetime.date.today().isoformat(),
        "triton": triton.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cards": {card.name: f"{card.sms} SMs, {card.clock} GHz, {card.bandwidth} TB/s" for card in CARDS},
        "entries": entries,
    }
    path = Path(__file__).parent / "results" / f"triton-static-{triton.__version__}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
