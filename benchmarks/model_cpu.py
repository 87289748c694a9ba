"""Whole models on the CPU: UniRepLKNet A against ConvNeXt V2-Atto, and T against ConvNeXt-Tiny, batch 8 at 224 px.

    OMP_NUM_THREADS=2 python benchmarks/model_cpu.py step memory
    OMP_NUM_THREADS=2 python benchmarks/model_cpu.py eager compiled

Contenders take turns; the best turn counts. UniRepLKNet runs merged in inference, in channels_last; its peers run in
the layout that is faster for them, found by one comparison. Parts add to those already in
benchmarks/results/model_cpu.json.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
import torch.nn.functional as F
from _common import RESULTS, interleaved, machine, settle_allocator, write_result
from torch import Tensor, nn

import unireplknet  # registers the models
from unireplknet.deploy.benchmark import peak_bytes

NAME = "model_cpu"
BATCH, SIZE = 8, 224
PAIRS = (("unireplknet_a", "convnextv2_atto"), ("unireplknet_t", "convnext_tiny"))
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def build(name: str, layout: str, training: bool, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A model and its input."""
    model = timm.create_model(name).train(training)
    if not training:
        unireplknet.reparameterize(model)
    memory_format = LAYOUTS[layout]
    x = torch.randn(BATCH, 3, SIZE, SIZE, dtype=dtype).contiguous(memory_format=memory_format)
    return model.to(dtype=dtype, memory_format=memory_format), x


def train_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Forward, loss and backward; gradients are dropped as an optimiser would after its step."""
    target = torch.zeros(BATCH, dtype=torch.int64)

    def step() -> None:
        F.cross_entropy(model(x).float(), target).backward()
        model.zero_grad(set_to_none=True)

    return step


def forward(model: nn.Module, x: Tensor) -> Callable[[], None]:
    """Inference."""

    def run() -> None:
        with torch.inference_mode():
            model(x)

    return run


def contest(make: Callable[[str, str], Callable[[], None]], rounds: int) -> list[dict[str, Any]]:
    """Time each pair; the peer in its faster layout."""
    rows = []
    for ours, peer in PAIRS:
        layouts = {layout: make(peer, layout) for layout in LAYOUTS}
        trial = interleaved(layouts, rounds=3, limit=20)
        best = min(trial, key=trial.__getitem__)
        calls = {ours: make(ours, "channels_last"), peer: layouts[best]}
        seconds = interleaved(calls, rounds=rounds, limit=40)
        busy = {name: cpu_seconds(call) for name, call in calls.items()}
        rows.append(
            {
                "ours": ours,
                "peer": peer,
                "peer_layout": best,
                **{f"{who}_ms": round(seconds[name] * 1e3, 1) for who, name in (("ours", ours), ("peer", peer))},
                **{f"{who}_cpu_ms": round(busy[name] * 1e3, 1) for who, name in (("ours", ours), ("peer", peer))},
                "speed_of_peer": round(seconds[peer] / seconds[ours], 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def cpu_seconds(call: Callable[[], None]) -> float:
    """CPU time of one call, over all threads."""
    start = time.process_time()
    call()
    return time.process_time() - start


def step() -> list[dict[str, Any]]:
    return contest(lambda name, layout: train_step(*build(name, layout, training=True)), rounds=8)


def eager() -> dict[str, Any]:
    result = {}
    for dtype in (torch.float32, torch.bfloat16):
        result[str(dtype).removeprefix("torch.")] = contest(
            lambda name, layout, dtype=dtype: forward(*build(name, layout, training=False, dtype=dtype)), rounds=12
        )
    return result


def compiled() -> list[dict[str, Any]]:
    def make(name: str, layout: str) -> Callable[[], None]:
        model, x = build(name, layout, training=False)
        return forward(torch.compile(model), x)

    return contest(make, rounds=12)


def plain(model: nn.Module) -> nn.Module:
    """The same network as a composition of modules: a hooked layer is called, and no fused step stands in for it."""
    for module in model.modules():
        if isinstance(module, unireplknet.nn.UniRepLKBlock):
            module.grn.register_forward_hook(lambda *_: None)
            module.norm2.register_forward_hook(lambda *_: None)
        if isinstance(module, unireplknet.nn.blocks.ReparamBranch):
            module.bn.register_forward_hook(lambda *_: None)
    return model


def memory() -> list[dict[str, Any]]:
    rows = []
    for ours, peer in PAIRS[:1]:
        model, x = build(ours, "channels_last", training=True)
        bytes_of = {"ours": peak_bytes(train_step(model, x)), "plain": peak_bytes(train_step(plain(model), x))}
        bytes_of["peer"] = peak_bytes(train_step(*build(peer, "contiguous", training=True)))
        rows.append(
            {
                "ours": ours,
                "peer": peer,
                **{f"{name}_mib": round(value / 2**20, 1) for name, value in bytes_of.items()},
                "ours_of_plain": round(bytes_of["ours"] / bytes_of["plain"], 3),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    parts = {"step": step, "memory": memory, "eager": eager, "compiled": compiled}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=list(parts))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    settle_allocator()
    path = RESULTS / f"{NAME}.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    result.pop("machine", None)
    for part in arguments.parts:
        rows = parts[part]()
        result[part] = {"machine": machine() | {"timm": timm.__version__}, "rows": rows}
    print(write_result(NAME, result))


if __name__ == "__main__":
    main()
