"""Outputs of exported files beside those of PyTorch, for the variants up to T.

    python benchmarks/export_check.py

Weights are random, and norms, GRN and layer scales have the spread of trained ones, so that a wrong merge or operator
would be seen. Each file is read by its own runtime and gets maps of several numbers and sizes; the reference is the
unmerged network in eager mode. Writes benchmarks/results/export_check.json.
"""

import argparse
import importlib.metadata
import tempfile
from pathlib import Path

import torch
from _common import write_result
from torch import nn

import unireplknet
from unireplknet.deploy.targets import TARGETS, TOLERANCES, export_network
from unireplknet.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=list("afpnt"))
    parser.add_argument("--to", nargs="+", choices=TARGETS, default=["onnx", "openvino"])
    parser.add_argument("--precision", nargs="+", choices=["fp32", "fp16"], default=["fp32"])
    parser.add_argument("--size", type=int, default=64, help="height and width of the first maps")
    options = parser.parse_args()

    errors: dict[str, dict[str, float | str]] = {}
    for variant in options.variants:
        model = randomised(unireplknet.create_model(f"unireplknet_{variant}"))
        row = errors[f"unireplknet_{variant}"] = {}
        for to in options.to:
            for precision in options.precision:
                row[f"{to} {precision}"] = measure(model, options.size, to, precision)
        print(variant, row, flush=True)
    packages = ("onnx", "onnxruntime", "onnxscript", "openvino")
    result = {
        "command": f"python benchmarks/export_check.py --size {options.size}",
        "measure": "max|a - b| / max|b|",
        "tolerances": {precision: TOLERANCES[precision] for precision in options.precision},
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "errors": errors,
    }
    print(write_result("export_check", result))


def measure(model: nn.Module, size: int, to: str, precision: str) -> float | str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return export_network(model, Path(folder) / f"a{TARGETS[to].suffix}", (3, size, size), to, precision)
        except UserError as error:
            return str(error)


@torch.no_grad()
def randomised(model: nn.Module) -> nn.Module:
    """The spread of a trained network; layer scales are small, since float32 itself is off in deep loud networks."""
    torch.manual_seed(0)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_var.copy_(10 ** (2 * torch.rand_like(module.running_var) - 1))
            module.running_mean.normal_()
            module.weight.uniform_(0.3, 1.7)
            module.bias.uniform_(-0.5, 0.5)
        elif name.endswith(".grn"):
            module.weight.uniform_(-1, 1)
            module.bias.uniform_(-1, 1)
        if getattr(module, "layer_scale", None) is not None:
            module.layer_scale.uniform_(-0.1, 0.1)
    return model.eval()


if __name__ == "__main__":
    main()
