"""Check and time the network on this machine's card, in at most four minutes.

    python benchmarks/gpu.py                                # writes benchmarks/results/gpu-<card>.json
    TRITON_INTERPRET=1 python benchmarks/gpu.py --tiny      # the same on the CPU, small: a test

It needs torch, Triton, timm and this package, installed or on PYTHONPATH. Each part is printed and written as it ends,
so that a run that is cut off leaves what it had. Networks run at batch 128 and 224 px in bfloat16 (training: autocast
with float32 parameters and AdamW), beside ConvNeXt-T and ConvNeXt V2-Atto in the same process. A time is the median of
repeated calls between CUDA events; operators are timed in CUDA graphs over four sets of inputs, which together are
larger than the cache.
"""

import argparse
import copy
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

import unireplknet
from unireplknet.nn import UniRepLKBlock, blocks, conv_norm, fused
from unireplknet.nn.reparam import default_branches
from unireplknet.ops import constant_weights, depthwise_conv2d, use_backend
from unireplknet.ops.triton import conv, depthwise, tiles
from unireplknet.ops.triton.geometry import Kernel
from unireplknet.ops.triton.launch import Launch, LaunchRecorder, recorded

WORKERS = 16
BATCH, SIZE = 128, 224
NETWORKS = ("unireplknet_a", "unireplknet_t")
PEERS = {"unireplknet_a": "convnextv2_atto", "unireplknet_t": "convnext_tiny"}
# Batch, channels, height, width, kernel.
SHAPES = [
    (128, 160, 28, 28, 13),
    (128, 320, 14, 14, 13),
    (128, 640, 7, 7, 13),
    (128, 80, 56, 56, 3),
    (2, 160, 100, 168, 13),
    (64, 384, 32, 32, 31),
]
DTYPES = (torch.bfloat16, torch.float32)
# Channels, pixels, kernel and dtype of the blocks that are checked.
CHECKED = [
    *(((80, 56, 3), dtype) for dtype in (*DTYPES, torch.float64)),
    *(((160, 28, 13), dtype) for dtype in (*DTYPES, torch.float64)),
    *(((320, 14, 13), dtype) for dtype in DTYPES),
    *(((640, 7, 13), dtype) for dtype in DTYPES),
]
Result = dict[str, Any]


class Bench:
    """Where and how large to run, and how to time."""

    def __init__(self, tiny: bool, limit: float, parts: list[str]) -> None:
        self.tiny, self.limit, self.parts = tiny, limit, parts
        self.device = torch.device("cpu" if tiny else "cuda")
        self.batch, self.size = (2, 16) if tiny else (BATCH, SIZE)
        self.dtype = torch.float32 if tiny else torch.bfloat16
        self.start = time.monotonic()

    def is_late(self) -> bool:
        """Whether nothing new should start."""
        return time.monotonic() - self.start > self.limit

    def network(self, name: str) -> nn.Module:
        """A network with random weights."""
        torch.manual_seed(0)
        if self.tiny:
            shape = {"depths": (1, 1, 1, 1), "dims": (4,) * 4, "kernel_sizes": (3, 7, 3, 3)}
            return unireplknet.UniRepLKNet(num_classes=1000, **shape)
        return timm.create_model(name, drop_path_rate=0.1).to(self.device)

    def images(self, dtype: torch.dtype | None = None) -> Tensor:
        """A batch of noise."""
        return torch.randn(self.batch, 3, self.size, self.size, device=self.device, dtype=dtype)

    def milliseconds(self, call: Callable[[], Any], repeats: int = 20) -> float:
        """Median time of a call, after three that do not count."""
        if self.tiny:
            began = time.perf_counter()
            call()
            return (time.perf_counter() - began) * 1e3
        for _ in range(3):
            call()
        torch.cuda.synchronize()
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        for begin, end in events:
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in events)

    def graphed(self, call: Callable[[int], Any], sets: int = 4, rounds: int = 5) -> float:
        """Time of a call in a CUDA graph that goes through the sets of inputs."""
        if self.tiny:
            return self.milliseconds(lambda: call(0))
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for i in range(sets):
                call(i)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(rounds):
                for i in range(sets):
                    call(i)
        return self.milliseconds(graph.replay, 10) / (sets * rounds)


def error(actual: Tensor, exact: Tensor) -> float:
    """Root mean square error relative to the truth's root mean square."""
    exact = exact.double()
    return ((actual.double() - exact).norm() / exact.norm().clamp(min=1e-30)).item()


# --- kernels, compiled in parallel


def recorded_launches(work: Callable[[], Any]) -> list[Launch]:
    """The launches of a piece of work on the meta device."""
    with use_backend("triton"), recorded() as direct, LaunchRecorder() as recorder:
        work()
    return direct + recorder.launches


def launches_of_networks() -> Iterator[Launch]:
    """Those of steps with float32 parameters and bfloat16 maps, and of merged forward passes."""
    for name in NETWORKS:
        with torch.device("meta"):
            model, merged = timm.create_model(name), unireplknet.reparameterize(timm.create_model(name)).bfloat16()
        for stage, info in zip(model.stages, model.feature_info, strict=True):
            size = SIZE // info["reduction"]
            x = torch.empty(BATCH, info["num_chs"], size, size, device="meta", dtype=torch.bfloat16)
            for block in list(stage.blocks)[:2]:
                yield from recorded_launches(partial(step_of_block, block.train(), x))
            if info is not model.feature_info[0]:
                before = torch.empty(BATCH, info["num_chs"] // 2, 2 * size, 2 * size, device="meta").bfloat16()
                before = before.contiguous(memory_format=torch.channels_last)
                yield from recorded_launches(partial(step_of_block, stage.downsample, before))
        images = torch.empty(BATCH, 3, SIZE, SIZE, device="meta", dtype=torch.bfloat16)
        yield from recorded_launches(partial(step_of_block, model.stem, images))
        with torch.no_grad():
            yield from recorded_launches(partial(merged.eval(), images))


def step_of_block(block: nn.Module, x: Tensor) -> None:
    """Forward and backward pass of a block."""
    block(x.detach().requires_grad_()).float().sum().backward()


def launches_of_operators() -> Iterator[Launch]:
    """Those of the convolution and its gradients, alone."""
    for batch, channels, height, width, kernel in SHAPES:
        for dtype in DTYPES:
            x = torch.empty(batch, channels, height, width, device="meta", dtype=dtype)
            for weight_dtype in {dtype, torch.float32}:
                weight = torch.empty(channels, 1, kernel, kernel, device="meta", dtype=weight_dtype)
                for flip in (False, True):
                    yield from recorded_launches(lambda: depthwise.forward(x, weight, flip=flip))  # noqa: B023
                yield from recorded_launches(lambda: depthwise.grad_weight(x, x, (kernel, kernel)))  # noqa: B023


def launches_of_blocks() -> Iterator[Launch]:
    """Those of the blocks that are checked against float64."""
    for (dim, size, kernel), dtype in CHECKED:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        x = torch.empty(8, dim, size, size, device="meta", dtype=dtype)
        block = UniRepLKBlock(dim, kernel, layer_scale_init=1.0).to("meta", wide)
        yield from recorded_launches(partial(step_of_block, block.train(), x))
        with torch.no_grad():
            yield from recorded_launches(partial(block.eval(), x))
            yield from recorded_launches(partial(block.reparameterize(), x))


def launches_of_tiles() -> Iterator[Launch]:
    """Those that the search for tiles goes through."""
    for kind, x, group, candidate in tile_cases("meta"):
        with tiles.use_tiles({tiles.key(kind, x, group): candidate}):
            yield from recorded_launches(tile_call(kind, x, group))


LAUNCHES: dict[str, tuple[Callable[[], Iterator[Launch]], ...]] = {
    "correct": (launches_of_operators, launches_of_blocks),
    "networks": (launches_of_networks,),
    "profile": (launches_of_networks,),
    "operators": (launches_of_operators,),
    "tiles": (launches_of_tiles,),
}


def compile_share(worker: int, workers: int, parts: list[str]) -> None:
    """Compile every ``workers``-th kernel of the parts into Triton's cache."""
    sources = dict.fromkeys(source for part in parts for source in LAUNCHES.get(part, ()))
    distinct: dict[str, Launch] = {}
    for launch in (launch for source in sources for launch in source()):
        key = [launch.kernel.__name__, str(launch.num_warps)]
        for value, parameter in zip(launch.arguments, launch.kernel.params, strict=True):
            if isinstance(value, Tensor):
                key.append(str(value.dtype))
            elif parameter.is_constexpr or value is None:
                key.append(repr(value))
            elif not parameter.do_not_specialize:
                key.append(f"{value == 1} {value % 16 == 0}")
        distinct.setdefault(" ".join(key), launch)
    for launch in list(distinct.values())[worker::workers]:
        try:
            launch.kernel.warmup(*launch.arguments, grid=launch.grid, num_warps=launch.num_warps)
        except Exception as reason:  # tiles that no card holds are found out when they are timed
            print(f"{launch.kernel.__name__}: {str(reason).splitlines()[0][:100]}", file=sys.stderr)


def compile_kernels(bench: Bench) -> Result:
    """Compile the kernels on all cores; Triton would compile one after the other."""
    if bench.tiny:
        return {}
    began = time.monotonic()
    workers = min(WORKERS, os.cpu_count() or 1)
    command = [sys.executable, __file__, "--parts", *bench.parts, "--compile"]
    children = [subprocess.Popen([*command, str(i), str(workers)]) for i in range(workers)]
    failed = sum(child.wait() != 0 for child in children)
    return {"seconds": round(time.monotonic() - began, 1), "failed": failed}


# --- the card


def roof(bench: Bench) -> Result:
    """What the card can do at most: bytes a second of a copy, FLOP a second of a product."""
    if bench.tiny:
        return {}
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda").random_(0, 255)
    target = torch.empty_like(source)
    copy_ms = bench.milliseconds(lambda: target.copy_(source))
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product_ms = bench.milliseconds(lambda: a @ b)
    return {
        "copy_tb_per_s": round(2 * source.nbytes / copy_ms / 1e9, 2),
        "product_tflops": round(2 * 8192**3 / product_ms / 1e9),
    }


# --- correctness


def correct(bench: Bench) -> Result:
    """Operator and blocks against float64, and the bits of a second run."""
    result: Result = {"operator": {}, "block": {}}
    shapes = [(2, 4, 9, 7, 5)] if bench.tiny else [(4, *shape[1:]) for shape in SHAPES]
    for shape in shapes:
        for dtype in [torch.float32] if bench.tiny else DTYPES:
            result["operator"][f"{shape} {dtype}"] = _operator_errors(bench, shape, dtype)
    for (dim, size, kernel), dtype in [((8, 5, 7), torch.float32)] if bench.tiny else CHECKED:
        name = f"{dim} channels, {size} px, K={kernel}, {dtype}"
        result["block"][name] = _block_errors(bench, dim, size, kernel, dtype)
    return result


def _operator_errors(bench: Bench, shape: tuple[int, ...], dtype: torch.dtype) -> Result:
    batch, channels, height, width, kernel = shape
    torch.manual_seed(1)
    x = torch.randn(batch, channels, height, width, device=bench.device, dtype=dtype, requires_grad=True)
    weight = torch.randn(channels, 1, kernel, kernel, device=bench.device, dtype=dtype, requires_grad=True)
    grad = torch.randn_like(x)

    def run(backend: str, dtype: torch.dtype) -> list[Tensor]:
        inputs = [t.detach().to(dtype).requires_grad_() for t in (x, weight)]
        with use_backend(backend):
            y = depthwise_conv2d(*inputs)
        return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(dtype))]

    exact, plain = run("reference", torch.float64), run("reference", dtype)
    first, second = run("triton", dtype), run("triton", dtype)
    return {
        "ours": [error(a, b) for a, b in zip(first, exact, strict=True)],
        "pytorch": [error(a, b) for a, b in zip(plain, exact, strict=True)],
        "repeats": all(torch.equal(a, b) for a, b in zip(first, second, strict=True)),
    }


def _block_errors(bench: Bench, dim: int, size: int, kernel: int, dtype: torch.dtype) -> Result:
    torch.manual_seed(2)
    block = UniRepLKBlock(dim, kernel, layer_scale_init=1.0).to(bench.device)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3 / max(1, parameter[0].numel()) ** 0.5)
    batch = 2 if bench.tiny else 8
    x = torch.randn(batch, dim, size, size, device=bench.device)
    grad = torch.randn_like(x)
    results = {}
    for name, backend, kind in (
        ("exact", "reference", torch.float64),
        ("plain", "reference", dtype),
        ("ours", "triton", dtype),
    ):
        twin = copy.deepcopy(block).to(torch.float64 if kind == torch.float64 else torch.float32).train()
        half = kind.itemsize == 2
        source = x.to(kind).detach().clone().requires_grad_()
        with use_backend(backend):
            with torch.autocast(bench.device.type, kind) if half else nullcontext():
                if name == "ours":
                    assert fused.can_fuse(twin, source) is None, fused.can_fuse(twin, source)
                y = twin(source)
            y.backward(grad.to(y.dtype))
            with torch.no_grad(), torch.autocast(bench.device.type, kind) if half else nullcontext():
                evaluated = twin.eval()(source)
                merged = twin.reparameterize()(source)
        results[name] = {
            "y": y.detach(),
            "x": source.grad,
            **{n: p.grad for n, p in twin.named_parameters() if p.grad is not None},
            "eval": evaluated,
            "merged": merged,
        }
    exact = results["exact"]
    worst = {
        name: sorted(((error(results[name][key], exact[key]), key) for key in exact if _matters(key)), reverse=True)[:3]
        for name in ("plain", "ours")
    }
    output = {
        name: {key: error(results[name][key], exact[key]) for key in ("y", "x", "eval", "merged")} for name in worst
    }
    return {"worst": worst, "of": output}


def _matters(key: str) -> bool:
    """Gradients that are zero but for rounding have no relative error."""
    return not key.endswith(("bn.bias", "grn.bias"))


# --- networks


@contextmanager
def plain_composition() -> Iterator[None]:
    """The modules around our convolution, instead of the fused blocks."""
    with ExitStack() as stack:
        for module, name in ((blocks, "fusion"), (conv_norm, "can_fuse_conv_norm")):
            stack.enter_context(mock.patch.object(module, name, return_value="switched off"))
        yield


def step_of(bench: Bench, model: nn.Module, x: Tensor, mode: str | None) -> Callable[[], None]:
    """A training step of a network."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=not bench.tiny)
    labels = torch.randint(0, 1000, (bench.batch,), device=bench.device)

    def loss() -> Tensor:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=not bench.tiny):
            return F.cross_entropy(model(x), labels)

    forward = loss if mode is None else torch.compile(loss, mode=mode)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()
        optimizer.step()

    return step


def time_step(bench: Bench, name: str, mode: str | None = None, channels_last: bool = False) -> Result:
    """Milliseconds of a training step, and peak memory; ``mode`` is one of torch.compile's, or None for eager."""
    if mode is not None:
        torch._dynamo.reset()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = bench.network(name).to(memory_format=layout)
    x = bench.images().contiguous(memory_format=layout)
    with use_backend("triton") if bench.tiny else nullcontext():
        step = step_of(bench, model, x, mode)
        began = time.monotonic()
        step()
        first = time.monotonic() - began
        if not bench.tiny:
            torch.cuda.reset_peak_memory_stats()
        ms = bench.milliseconds(step)
    peak = 0 if bench.tiny else torch.cuda.max_memory_allocated() / 2**30
    return {"ms": round(ms, 2), "peak_gib": round(peak, 2), "first_call_s": round(first, 1)}


def time_inference(bench: Bench, name: str, mode: str | None = None, channels_last: bool = False) -> Result:
    """Images a second of a merged network in half precision; ``mode`` is one of torch.compile's, or None for eager."""
    if mode is not None:
        torch._dynamo.reset()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = unireplknet.reparameterize(bench.network(name).eval()).to(bench.dtype).to(memory_format=layout)
    x = bench.images(bench.dtype).contiguous(memory_format=layout)
    call = model if mode is None else torch.compile(model, mode=mode)
    with torch.no_grad(), constant_weights(), use_backend("triton") if bench.tiny else nullcontext():
        began = time.monotonic()
        call(x)
        first = time.monotonic() - began
        ms = bench.milliseconds(lambda: call(x), 50)
    return {"ms": round(ms, 3), "img_per_s": round(bench.batch / ms * 1e3), "first_call_s": round(first, 1)}


def networks(bench: Bench) -> Iterator[tuple[str, Result]]:
    """Steps and inference beside the peers, the most telling first."""
    small, large = "unireplknet_a", "unireplknet_t"

    def steps(*names: str, mode: str | None = None, channels_last: bool = False) -> None:
        layout = " channels_last" if channels_last else ""
        for name in names:
            call = partial(time_step, bench, name, mode, channels_last)
            work.append((f"step {name} {mode or 'eager'}{layout}", call))

    def inference(*names: str, mode: str | None = None) -> None:
        for name in names:
            work.append((f"inference {name} {mode or 'eager'}", partial(time_inference, bench, name, mode)))

    work: list[tuple[str, Callable[[], Result]]] = []
    steps(large, *([] if bench.tiny else [PEERS[large]]))
    if bench.tiny:
        inference(small)
    else:
        for mode in ("default", "reduce-overhead"):
            inference(small, PEERS[small], mode=mode)
        steps(large, mode="reduce-overhead")
        steps(small, PEERS[small])
        inference(small, PEERS[small], large, PEERS[large])
        for mode in ("default", "reduce-overhead"):
            inference(large, PEERS[large], mode=mode)
        steps(large, mode="default")
        steps(*PEERS.values(), channels_last=True)
        name = f"inference {small} default, modules around the operator"
        work.append((name, partial(_around, bench, small)))
        steps(PEERS[large], mode="default")
        steps(PEERS[large], mode="reduce-overhead")
    for name, call in work:
        if bench.is_late():
            return
        try:
            yield name, call()
        except Exception as reason:  # one network's failure must not take the others along
            traceback.print_exc()
            yield name, {"failed": f"{type(reason).__name__}: {str(reason).splitlines()[0][:200]}"}


def _around(bench: Bench, name: str) -> Result:
    with plain_composition():
        return time_inference(bench, name, "default")


# --- profile


def profile_of(bench: Bench) -> Iterator[tuple[str, Result]]:
    """The costliest kernels of T's step and A's merged forward pass."""
    x = bench.images()
    with use_backend("triton") if bench.tiny else nullcontext():
        yield "step unireplknet_t", _profile(bench, step_of(bench, bench.network("unireplknet_t"), x, None))
        for name in NETWORKS:
            model = unireplknet.reparameterize(bench.network(name).eval()).to(bench.dtype)
            y = x.to(bench.dtype)
            with torch.no_grad(), constant_weights():
                yield f"inference {name}", _profile(bench, lambda model=model, y=y: model(y))


def _profile(bench: Bench, call: Callable[[], Any], repeats: int = 3, most: int = 45) -> Result:
    call()
    if bench.tiny:
        return {}
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            call()
        torch.cuda.synchronize()
    times: dict[str, list[float]] = defaultdict(list)
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name].append(event.device_time)
    rows = sorted(((sum(t) / repeats / 1e3, len(t) / repeats, name[:90]) for name, t in times.items()), reverse=True)
    return {
        "busy_ms": round(sum(row[0] for row in rows), 2),
        "kernels": round(sum(row[1] for row in rows)),
        "rows": [[round(ms, 3), round(count, 1), name] for ms, count, name in rows[:most]],
    }


# --- operators


def operators(bench: Bench) -> Iterator[tuple[str, Result]]:
    """The convolution and its gradients against the time to read and write the map once."""
    for *shape, kernel in [(1, 2, 9, 7, 5)] if bench.tiny else SHAPES:
        for dtype in (torch.float32,) if bench.tiny else DTYPES:
            yield f"{tuple(shape)} K={kernel} {dtype}", _operator_times(bench, shape, kernel, dtype)


def _operator_times(bench: Bench, shape: list[int], kernel: int, dtype: torch.dtype) -> Result:
    channels = shape[1]
    xs = [torch.randn(shape, device=bench.device, dtype=dtype) for _ in range(4)]
    gs = [torch.randn_like(x) for x in xs]
    weight = torch.randn(channels, 1, kernel, kernel, device=bench.device)
    native = weight.to(dtype)
    calls: dict[str, Callable[[int], Any]] = {
        "forward_ms": lambda i: depthwise.forward(xs[i], weight),
        "grad_input_ms": lambda i: depthwise.forward(gs[i], weight, flip=True),
        "grad_weight_ms": lambda i: depthwise.grad_weight(xs[i], gs[i], (kernel, kernel)),
        "pytorch_ms": lambda i: F.conv2d(xs[i], native, padding=kernel // 2, groups=channels),
    }
    times = {name: round(bench.graphed(call), 4) for name, call in calls.items()}
    return {**times, "mib": xs[0].nbytes / 2**20}


Kernels = tuple[Kernel, ...]


def tile_cases(device: str) -> Iterator[tuple[tiles.Kind, Tensor, Kernels, tiles.Tiles]]:
    """The convolutions of T's blocks with each of their candidates for tiles."""
    for channels, size in ((160, 28), (320, 14), (640, 7), (80, 56)):
        x = torch.empty(BATCH, channels, size, size, device=device, dtype=torch.bfloat16).normal_()
        pairs = ((13, 1), *default_branches(13)) if size < 56 else ((3, 1),)
        branches = tuple(Kernel(k, k, r) for k, r in pairs)
        cases: list[tuple[tiles.Kind, Kernels]] = [("conv", branches), ("transpose", branches), ("correlate", branches)]
        if len(branches) > 1:
            cases.append(("conv", branches[:1]))
        for kind, group in cases:
            for candidate in tiles.candidates(kind, x, group):
                yield kind, x, group, candidate


def tile_call(kind: tiles.Kind, x: Tensor, group: Kernels) -> Callable[[], Any]:
    """The launches of one convolution of a block: Toeplitz matrices and product, or the weight gradient."""
    count, multi = len(group), len(group) > 1
    taps = x.new_empty(x.shape[1] * sum(k.height * k.width for k in group), dtype=torch.float32).normal_()
    ys = x.new_empty(count, *x.shape).normal_() if multi else None
    affine = x.new_empty((3, count, x.shape[1]), dtype=torch.float32).normal_() if multi else None

    def call() -> Any:
        if kind == "correlate":
            return conv.correlate(x, x, group, ys, affine, torch.float32)
        chosen, cuts = conv.plan(kind, x, group)
        if kind == "transpose":
            rows = count + 1 if multi else 1
            matrices = conv.toeplitz(taps, affine, cuts, x, merged=multi, branches=rows, flip=True)
            return conv.transpose(x, ys, None if affine is None else affine[2], x, matrices, cuts, chosen)
        matrices = conv.toeplitz(taps, None, cuts, x, merged=False, branches=count, flip=False)
        return conv.convolve(x, matrices, cuts, chosen, branches=count, moments=conv.new_moments(x, cuts, count))

    return call


def tiles_of(bench: Bench) -> Iterator[tuple[str, Result]]:
    """Milliseconds of a block's convolutions by tiles, at the network's sizes."""
    if bench.tiny:
        return
    calls: dict[tuple[Any, ...], Callable[[], Any]] = {}
    for kind, x, group, candidate in tile_cases("cuda"):
        if bench.is_late():
            return
        case = kind, tuple(x.shape), len(group)
        if case not in calls:
            calls.clear()
            calls[case] = tile_call(kind, x, group)
        name = f"{kind} {x.shape[2]} px {len(group)} kernels {tuple(candidate)}"
        try:
            with tiles.use_tiles({tiles.key(kind, x, group): candidate}):
                yield name, {"ms": round(bench.graphed(lambda _: calls[case](), 1), 4)}  # noqa: B023
        except (OutOfResources, CompilationError) as reason:
            yield name, {"failed": str(reason).splitlines()[0][:80]}


PARTS: dict[str, Callable[[Bench], Any]] = {
    "compile": compile_kernels,
    "roof": roof,
    "correct": correct,
    "networks": networks,
    "profile": profile_of,
    "operators": operators,
    "tiles": tiles_of,
}


def run(bench: Bench, parts: list[str], path: Path) -> int:
    """Run the parts, printing and writing each result as it comes."""
    result: Result = {
        "date": datetime.date.today().isoformat(),
        "card": "interpreted" if bench.tiny else torch.cuda.get_device_name(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "timm": timm.__version__},
        "python": platform.python_version(),
        "batch": bench.batch,
        "size": bench.size,
    }
    failed = 0

    def put(part: str, row: str | None, value: Result) -> None:
        seconds = time.monotonic() - bench.start
        print(f"[{seconds:6.1f}] {part}{'' if row is None else f': {row}'}: {json.dumps(value)}", flush=True)
        if row is None:
            result[part] = value
        else:
            result.setdefault(part, {})[row] = value
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=1) + "\n")

    for part in parts:
        if bench.is_late():
            put("left out", part, {"reason": "out of time"})
            continue
        try:
            outcome = PARTS[part](bench)
            if isinstance(outcome, dict):
                put(part, None, outcome)
            else:
                for row, value in outcome:
                    put(part, row, value)
        except Exception as reason:  # one part's failure must not take the others along
            failed += 1
            traceback.print_exc()
            put("failed", part, {"reason": f"{type(reason).__name__}: {str(reason)[:500]}"})
    return 1 if failed else 0


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small, on the CPU, with interpreted kernels")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="run only these")
    parser.add_argument("--out", type=Path, help="the result file")
    parser.add_argument("--seconds", type=float, default=230, help="start nothing new after this long")
    parser.add_argument("--compile", nargs=2, type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.compile:
        compile_share(*arguments.compile, arguments.parts)
        return 0
    if not arguments.tiny and not torch.cuda.is_available():
        print("needs a CUDA or ROCm card; PyTorch sees none", file=sys.stderr)
        return 1
    bench = Bench(arguments.tiny, arguments.seconds, arguments.parts)
    name = "gpu-tiny" if bench.tiny else "gpu-" + torch.cuda.get_device_name().replace(" ", "-")
    path = arguments.out or Path(__file__).parent / "results" / f"{name}.json"
    return run(bench, arguments.parts, path)


if __name__ == "__main__":
    sys.exit(main())
