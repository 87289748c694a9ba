"""Count what a training step and a merged forward pass cost on a card, without one: kernels launched, bytes moved.

    python benchmarks/gpu_cost.py            # a table, and benchmarks/results/gpu_cost.json
    python benchmarks/gpu_cost.py --json     # the figures alone, as JSON

Networks and inputs are on the meta device, batch 128 at 224 px, parameters and maps in bfloat16. A launch is a call of
PyTorch that computes something, or a launch of a Triton kernel inside an operator of ours. Its bytes are those of all
tensors that it reads and writes, each once; what a cache saves or a kernel reads twice is not counted. A step is
forward pass, loss, backward pass and AdamW. The casts of autocast are counted apart: a step with float32 parameters
casts each of them once, and the gradients come back in float32.
"""

import argparse
import json
from collections import Counter
from contextlib import nullcontext
from typing import Any
from unittest import mock

import timm
import torch
import torch.nn.functional as F
from _common import write_result
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import unireplknet
from unireplknet.ops import use_backend
from unireplknet.ops.triton.launch import LaunchRecorder
from unireplknet.ops.triton.library import NAMESPACE

NAME = "gpu_cost"
BATCH, SIZE = 128, 224
# Label and network: ours, then the peer of its size.
NETWORKS = {"a": "unireplknet_a", "v2_atto": "convnextv2_atto", "t": "unireplknet_t", "convnext_t": "convnext_tiny"}
# Calls that allocate, inspect or run on the host, and launch nothing.
NOTHING = {
    "_local_scalar_dense",
    "_record_function_enter_new",
    "_record_function_exit",
    "_unsafe_view",
    "detach_",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
}


class CostCounter(LaunchRecorder):
    """Count the calls that launch a kernel, and the bytes of their tensors; look inside the operators of this package.

    Attributes:
        kernels: Launches by name.
        bytes: Bytes by name.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        for launch in self.launches:
            self._add(launch.kernel.__name__, launch.bytes)
        # Kept launches would keep their tensors, and a gradient that somebody else holds is copied.
        self.launches.clear()
        name = func.overloadpacket.__name__
        if func.namespace != NAMESPACE and not func.is_view and name not in NOTHING:
            tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self._add(name, sum(t.nbytes for t in tensors))
        return result

    def _add(self, name: str, size: int) -> None:
        self.kernels[name] += 1
        self.bytes[name] += size

    @property
    def figures(self) -> dict[str, float]:
        """Launches, and gigabytes that they read and write."""
        return {"kernels": self.kernels.total(), "gb": round(self.bytes.total() / 1e9, 2)}


class CastCounter(TorchDispatchMode):
    """Count what copies tensors into another dtype.

    Attributes:
        kernels: Launches.
        bytes: Bytes read and written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("_to_copy", "_foreach_copy_"):
            self.kernels += 1
            self.bytes += sum(t.nbytes for t in tree_leaves((args, result)) if isinstance(t, Tensor))
        return result


def build(name: str) -> nn.Module:
    """Build a network in bfloat16. Running statistics stay in float32, as where autocast casts."""
    with torch.device("meta"):
        model = timm.create_model(name).to(torch.bfloat16)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean, norm.running_var = norm.running_mean.float(), norm.running_var.float()
    return model


def images(device: str, dtype: torch.dtype) -> Tensor:
    """Return a batch of the network's input."""
    return torch.empty(BATCH, 3, SIZE, SIZE, device=device, dtype=dtype)


def step(name: str) -> CostCounter:
    """Count a training step: forward pass, loss, backward pass, AdamW."""
    counter, model = CostCounter(), build(name)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    labels = torch.empty(BATCH, dtype=torch.int64, device="meta")
    with use_backend("triton"):
        for mode in (nullcontext(), counter):  # the first step creates the optimizer's state
            optimizer.zero_grad()
            with mode:
                F.cross_entropy(model(images("meta", torch.bfloat16)).float(), labels).backward()
                optimizer.step()
    return counter


def forward(name: str) -> CostCounter:
    """Count a forward pass of the merged network."""
    counter, model = CostCounter(), unireplknet.reparameterize(build(name).eval())
    with use_backend("triton"), torch.no_grad(), counter:
        model(images("meta", torch.bfloat16))
    return counter


def casts(name: str) -> dict[str, float]:
    """Count autocast's casts of a training step: those of the forward pass, and as many of gradients.

    Autocast knows no meta tensors; tensors are fake, on a card that need not exist.
    """
    counter = CastCounter()
    with torch.device("meta"):
        model = timm.create_model(name)
    card = mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0))
    with card, FakeTensorMode(allow_non_fake_inputs=True):
        model.to_empty(device="cuda")
        torch.set_autocast_enabled("cuda", True)
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        try:
            with counter:
                model(images("cuda", torch.float32))
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()
    return {"kernels": 2 * counter.kernels, "gb": round(2 * counter.bytes / 1e9, 2)}


def measure() -> dict[str, dict[str, float]]:
    """Count everything; keys are ``<network>_<step, forward or casts>``."""
    result = {}
    for label, name in NETWORKS.items():
        result[f"{label}_step"] = step(name).figures
        result[f"{label}_forward"] = forward(name).figures
        result[f"{label}_casts"] = casts(name)
    return result


def table(result: dict[str, dict[str, float]]) -> str:
    """Lay the figures out, a row each."""
    rows = [f"{key:20} {value['kernels']:8} {value['gb']:8.2f}" for key, value in result.items()]
    return "\n".join([f"{'':20} {'kernels':>8} {'GB':>8}", *rows])


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON and write no file")
    options = parser.parse_args()
    result = measure()
    if options.json:
        print(json.dumps(result))
        return
    print(table(result))
    print(f"written: {write_result(NAME, {'batch': BATCH, 'size': SIZE, 'figures': result}).name}")


if __name__ == "__main__":
    main()
