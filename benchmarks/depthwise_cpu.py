"""Depthwise convolution on the CPU against F.conv2d under autograd, forward and backward, float32.

    OMP_NUM_THREADS=2 python benchmarks/depthwise_cpu.py op block accuracy
    OMP_NUM_THREADS=2 python benchmarks/depthwise_cpu.py grid --maps 7 14 28

Every case is checked before it is timed. Runs of the grid over some maps add to those of the others in
benchmarks/results/depthwise_cpu.json.
"""

import argparse
import itertools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from _common import RESULTS, interleaved, machine, settle_allocator, write_result
from torch import Tensor

from unireplknet import depthwise_conv2d

NAME = "depthwise_cpu"
CHANNELS = {7: 320, 14: 160, 28: 80, 56: 40, 96: 24}
KERNELS = (3, 5, 7, 9, 13, 17, 31)
BRANCHES = ((13, 1), (5, 1), (7, 2), (3, 3), (3, 4), (3, 5))
SLACK_RATIO, SLACK_SECONDS = 0.95, 20e-6


@dataclass(frozen=True)
class Case:
    batch: int
    size: int
    kernel: int
    dilation: int = 1
    channels_last: bool = False

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Input, weight and output gradient."""
        shape = (self.batch, CHANNELS[self.size], self.size, self.size)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        weight = torch.randn(shape[1], 1, self.kernel, self.kernel).div_(self.kernel)
        x, grad = (torch.randn(shape).contiguous(memory_format=layout) for _ in range(2))
        return x.requires_grad_(), weight.requires_grad_(), grad


def native(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    padding = weight.shape[2] // 2 * dilation
    return F.conv2d(x, weight, padding=padding, dilation=dilation, groups=weight.shape[0])


def ours(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return depthwise_conv2d(x, weight, dilation=dilation)


def step(function, x: Tensor, weight: Tensor, grad: Tensor, dilation: int) -> list[Tensor]:
    y = function(x, weight, dilation)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), grad)]


def errors(got: list[Tensor], expected: list[Tensor]) -> list[float]:
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(got, expected, strict=True)]


def time_case(case: Case) -> dict:
    x, weight, grad = case.tensors()
    worst = max(
        errors(step(ours, x, weight, grad, case.dilation), step(native, x, weight, grad, case.dilation))
    )
    if worst > 1e-5:
        raise SystemExit(f"{case} differs from F.conv2d by {worst:.1e}: not timed")
    seconds = interleaved(
        {
            "native": lambda: step(native, x, weight, grad, case.dilation),
            "ours": lambda: step(ours, x, weight, grad, case.dilation),
        }
    )
    return {
        **asdict(case),
        "channels": CHANNELS[case.size],
        "native_ms": round(seconds["native"] * 1e3, 4),
        "ours_ms": round(seconds["ours"] * 1e3, 4),
        "speedup": round(seconds["native"] / seconds["ours"], 3),
    }


def op() -> dict:
    rows = [time_case(Case(8, size, 13)) for size in (28, 14, 7)]
    return {"rows": rows, "geomean": round(math.prod(r["speedup"] for r in rows) ** (1 / len(rows)), 2)}


def block() -> dict:
    result = {}
    for size in (28, 14, 7):
        rows = [time_case(Case(8, size, kernel, dilation)) for kernel, dilation in BRANCHES]
        total = {key: sum(r[key] for r in rows) for key in ("native_ms", "ours_ms")}
        result[str(size)] = {"rows": rows, "speedup": round(total["native_ms"] / total["ours_ms"], 2)}
    return result


def accuracy() -> list[dict]:
    """Relative RMS error of y, x.grad and weight.grad against F.conv2d in float64."""
    rows = []
    for size, (kernel, dilation) in itertools.product((28, 14, 7), BRANCHES):
        x, weight, grad = Case(8, size, kernel, dilation).tensors()
        double = [t.detach().double().requires_grad_() for t in (x, weight)]
        exact = step(native, *double, grad.double(), dilation)
        row = {"size": size, "kernel": kernel, "dilation": dilation}
        for function in (native, ours):
            row[function.__name__] = errors(step(function, x, weight, grad, dilation), exact)
        row["met"] = all(a <= max(2 * b, 1e-6) for a, b in zip(row["ours"], row["native"], strict=True))
        rows.append(row)
    return rows


def grid(maps: list[int]) -> dict:
    result = {}
    for size in maps:
        rows = []
        for batch, kernel, channels_last in itertools.product((1, 8), KERNELS, (False, True)):
            row = time_case(Case(batch, size, kernel, channels_last=channels_last))
            lost = (row["ours_ms"] - row["native_ms"]) / 1e3
            row["met"] = row["speedup"] >= SLACK_RATIO or lost <= SLACK_SECONDS
            rows.append(row)
        result[str(size)] = {"machine": machine(), "rows": rows}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=("op", "block", "accuracy", "grid"))
    parser.add_argument("--maps", nargs="+", type=int, default=list(CHANNELS), choices=list(CHANNELS))
    parser.add_argument("--name", default=NAME, help="result file's name, without .json")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    settle_allocator()
    path: Path = RESULTS / f"{arguments.name}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    result.pop("machine", None)
    for part in arguments.parts:
        if part == "grid":
            result["grid"] = {**result.get("grid", {}), **grid(arguments.maps)}
        else:
            result[part] = {"op": op, "block": block, "accuracy": accuracy}[part]()
    print(write_result(arguments.name, result))


if __name__ == "__main__":
    main()
