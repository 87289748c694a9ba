"""Where the time goes in a training step and in inference: A and ConvNeXt V2-Atto, T and ConvNeXt-Tiny.

    OMP_NUM_THREADS=2 python benchmarks/step_profile.py

Batch 8 at 224 px, as in model_cpu.py, each network in the layout that is faster for it there. The times are those of
PyTorch's profiler: an operator belongs to the part of the network that called it, and in the backward pass to the part
whose forward pass recorded it, so that the parts add up to the step. The fastest of several profiled steps is shown,
with the time of a step outside the profiler beside it; there is no optimiser in a step. Compiled inference is one call
for the profiler, but for the products and convolutions in it. Arithmetic is set against the fastest large product
found on this machine. Writes benchmarks/results/step_profile.json.
"""

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
import torch.nn.functional as F
from _common import interleaved, settle_allocator, write_result
from depthwise_cpu import BRANCHES, CHANNELS, ours, step
from model_cpu import BATCH, build, forward, train_step
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

NAME = "step_profile"
PAIRS = (
    {"unireplknet_a": "channels_last", "convnextv2_atto": "contiguous"},
    {"unireplknet_t": "channels_last", "convnext_tiny": "channels_last"},
)
DTYPES = (torch.float32, torch.bfloat16)
PART = "part: "
PARTS_OF_BLOCK = {
    "dwconv": "depthwise",
    "conv_dw": "depthwise",
    "norm": "norm",
    "_norm_and_scale": "norm",
    "extra": "SE",
    "_feed_forward": "pointwise",
    "mlp": "pointwise",
}
# What a part spends in products and convolutions, and in everything else.
NAMES = {
    "stem": ("stem: convolutions", "stem: LayerNorm and GELU"),
    "downsampling": ("downsampling", "downsampling"),
    "depthwise": ("depthwise convolutions", "depthwise: statistics, sums, layout"),
    "norm": ("norms of the blocks", "norms of the blocks"),
    "SE": ("SE", "SE"),
    "pointwise": ("pointwise products", "GELU and GRN"),
    "head": ("head", "head"),
    "other": ("shortcut, loss, other", "shortcut, loss, other"),
}
PRODUCTS = (
    "aten::conv2d",
    "aten::convolution",
    "aten::convolution_backward",
    "aten::linear",
    "aten::mm",
    "aten::addmm",
    "aten::bmm",
    "aten::baddbmm",
    "aten::baddbmm_",
    "mkldnn::_convolution_pointwise",
)


def label_parts(model: nn.Module) -> None:
    """Let the profiler see which part of the network calls; hooks would keep UniRepLKNet from its fused steps."""
    wrap(model, "stem", "stem")
    wrap(model, "head", "head")
    for stage in model.stages:
        wrap(stage, "downsample", "downsampling")
        for block in stage.blocks:
            for attribute, part in PARTS_OF_BLOCK.items():
                if hasattr(block, attribute):
                    wrap(block, attribute, part)


def wrap(owner: nn.Module, attribute: str, part: str) -> None:
    """Put every call of a child or a method under the name of a part."""
    inner = getattr(owner, attribute)
    owner, attribute = (inner, "forward") if isinstance(inner, nn.Module) else (owner, attribute)
    call = getattr(owner, attribute)

    def labelled(*arguments: Any) -> Any:
        with record_function(PART + part):
            return call(*arguments)

    setattr(owner, attribute, labelled)


def ancestry(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """The event and those it ran inside of, outwards."""
    current: FunctionEvent | None = event
    while current is not None:
        yield current
        current = current.cpu_parent


def split(events: list[FunctionEvent]) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Milliseconds by name and pass, and GFLOP of the pointwise products by pass."""
    part_of_node: dict[int, str] = {}  # by autograd's number of a recorded operation
    milliseconds: dict[str, dict[str, float]] = defaultdict(lambda: {"forward": 0.0, "backward": 0.0})
    work: dict[str, float] = defaultdict(float)
    lines = [list(ancestry(event)) for event in events]
    for which in ("forward", "backward"):
        for line in lines:
            event, outermost = line[0], line[-1]
            if outermost.name.startswith("autograd::engine") != (which == "backward"):
                continue
            if which == "backward":
                part = part_of_node.get(outermost.sequence_nr, "other")
            else:
                part = next((e.name.removeprefix(PART) for e in line if e.name.startswith(PART)), "other")
                if event.sequence_nr >= 0 and not event.name.startswith(PART):
                    part_of_node[event.sequence_nr] = part
            is_product = any(e.name in PRODUCTS for e in line)
            milliseconds[NAMES[part][0 if is_product else 1]][which] += event.self_cpu_time_total / 1e3
            if part == "pointwise":
                work[which] += flops(event) / 1e9
    return milliseconds, work


def flops(event: FunctionEvent) -> int:
    """Of a matrix product or a 1x1 convolution; zero of anything else."""
    shapes = event.input_shapes
    if event.name in ("aten::mm", "aten::bmm"):
        return 2 * math.prod(shapes[0]) * shapes[1][-1]
    if event.name in ("aten::addmm", "aten::baddbmm_", "aten::baddbmm"):
        return 2 * math.prod(shapes[1]) * shapes[2][-1]
    if event.name in ("aten::convolution", "mkldnn::_convolution_pointwise"):
        return 2 * math.prod(shapes[0]) * shapes[1][0]
    if event.name == "aten::convolution_backward":  # with respect to the input and to the weight
        return 4 * math.prod(shapes[1]) * shapes[2][0]
    return 0


def measure(calls: dict[str, Callable[[], None]], steps: int) -> dict[str, dict[str, Any]]:
    """Time calls in turn, then profile them in turn; the fastest turn of each counts."""
    plain = interleaved(calls, rounds=steps, limit=20)
    splits: dict[str, list[tuple[float, dict[str, dict[str, float]], dict[str, float]]]] = {name: [] for name in calls}
    for _ in range(steps):
        for name, call in calls.items():
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
                call()
            milliseconds, work = split(list(profiler.events()))
            splits[name].append((sum(sum(passes.values()) for passes in milliseconds.values()), milliseconds, work))
    return {name: describe(plain[name], *min(splits[name], key=lambda one: one[0])) for name in calls}


def describe(
    plain: float, total: float, milliseconds: dict[str, dict[str, float]], work: dict[str, float]
) -> dict[str, Any]:
    """One network's entry of the result file."""
    rates = {which: round(done / milliseconds["pointwise products"][which] * 1e3) for which, done in work.items()}
    return {
        "ms_outside_the_profiler": round(plain * 1e3, 1),
        "ms_of_all_parts": round(total, 1),
        "ms_of_parts": {
            name: {which: round(value, 1) for which, value in passes.items() if value}
            for name, passes in sorted(milliseconds.items(), key=lambda item: -sum(item[1].values()))
        },
        "pointwise_gflop": {which: round(done, 2) for which, done in work.items()},
        "pointwise_gflop_per_s": rates,
    }


def measure_compiled(calls: dict[str, Callable[[], None]], steps: int) -> dict[str, dict[str, Any]]:
    """As :func:`measure`, by the libraries' calls; all else is what the compiler has fused, and its overhead."""
    plain = interleaved(calls, rounds=steps, limit=20)
    result = {}
    for name, call in calls.items():
        totals = []
        for _ in range(steps):
            with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
                call()
            parts: dict[str, float] = defaultdict(float)
            for event in profiler.events():
                called = next((e for e in ancestry(event) if e.name in PRODUCTS), None)
                parts[kind_of(called)] += event.self_cpu_time_total / 1e3
            totals.append(parts)
        parts = min(totals, key=lambda one: sum(one.values()))
        result[name] = {
            "ms_outside_the_profiler": round(plain[name] * 1e3, 1),
            "ms_of_all_parts": round(sum(parts.values()), 1),
            "ms_of_parts": {part: round(value, 1) for part, value in parts.items()},
        }
    return result


def kind_of(call: FunctionEvent | None) -> str:
    """What a library's call in a compiled network computes."""
    if call is None:
        return "fused loops, other"
    if "conv" not in call.name:
        return "matrix products"
    _, inputs, *kernel = call.input_shapes[1]
    if all(side == 1 for side in kernel):
        return "1x1 convolutions"
    return "depthwise convolutions" if inputs == 1 else "stem and downsampling convolutions"


def peak(dtype: torch.dtype) -> dict[str, int]:
    """GFLOP/s of large products: the library behind matmul, and oneDNN's 1x1 convolution."""
    matrix = torch.randn(2048, 2048, dtype=dtype)
    pixels = torch.randn(8, 512, 32, 32, dtype=dtype).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(512, 512, 1, 1, dtype=dtype)
    seconds = interleaved({"mm": lambda: matrix @ matrix, "conv": lambda: F.conv2d(pixels, kernel)}, rounds=10, limit=8)
    work = {"mm": 2 * 2048**3, "conv": 2 * pixels.numel() * 512}
    return {name: round(work[name] / seconds[name] / 1e9) for name in work}


def call_floor() -> dict[str, dict[str, float]]:
    """Milliseconds of a block's six convolutions, forward and both gradients, and of the same calls on empty work.

    On maps of one pixel nothing is left of a depthwise convolution but its call.
    """

    def six_steps(channels: int, size: int) -> Callable[[], None]:
        calls: list[tuple[Tensor, Tensor, Tensor, int]] = []
        for kernel, dilation in BRANCHES:
            x, weight = torch.randn(BATCH, channels, size, size), torch.randn(channels, 1, kernel, kernel)
            calls.append((x.requires_grad_(), weight.requires_grad_(), torch.randn(x.shape), dilation))

        def run() -> None:
            for arguments in calls:
                step(ours, *arguments)

        return run

    result = {}
    for size in (28, 14, 7):
        channels = CHANNELS[size]
        seconds = interleaved({"ms": six_steps(channels, size), "ms_at_one_pixel": six_steps(channels, 1)}, limit=2)
        result[str(size)] = {name: round(value * 1e3, 2) for name, value in seconds.items()}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="profiled steps of each kind")
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    settle_allocator()
    result: dict[str, Any] = {"timm": timm.__version__, "six_branches": call_floor()}
    result["gflop_per_s_of_large_products"] = {str(dtype).removeprefix("torch."): peak(dtype) for dtype in DTYPES}
    for pair in PAIRS:
        for dtype in DTYPES:
            for training in (True, False) if dtype == torch.float32 else (False,):
                calls = {}
                for name, layout in pair.items():
                    model, x = build(name, layout, training, dtype)
                    label_parts(model)
                    calls[name] = (train_step if training else forward)(model, x)
                what = "step" if training else "inference"
                key = f"{what}_{str(dtype).removeprefix('torch.')}"
                result[key] = result.get(key, {}) | measure(calls, steps)
        models = {name: build(name, layout, training=False) for name, layout in pair.items()}
        compiled = {name: forward(torch.compile(model), x) for name, (model, x) in models.items()}
        key = "inference_compiled_float32"
        result[key] = result.get(key, {}) | measure_compiled(compiled, steps)
    print(write_result(NAME, result))


if __name__ == "__main__":
    main()
