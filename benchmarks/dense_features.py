"""Features of large images for detectors and segmenters: time and memory of A, merged, beside ConvNeXt V2-Atto.

    python benchmarks/dense_features.py

Writes results/dense_features.json. Inference in float32, one image of 800 x 1333 pixels, as COCO's recipes see them.
"""

from __future__ import annotations

import argparse
from typing import Any

import timm
import torch
from _common import interleaved, settle_allocator, write_result
from torch import nn

import unireplknet
from unireplknet.deploy.benchmark import peak_bytes
from unireplknet.models.complexity import count_params

SIZE = (800, 1333)


def features(name: str) -> nn.Module:
    """All four stages of a network with random weights, merged where it is one of ours."""
    model = timm.create_model(name, features_only=True, feature_cls="getter").eval()
    model = unireplknet.reparameterize(model)
    return model.to(memory_format=torch.channels_last)


def measure(names: tuple[str, ...], size: tuple[int, int], seconds: float) -> list[dict[str, Any]]:
    """Time and memory of several networks, timed in turn."""
    image = torch.randn(1, 3, *size).contiguous(memory_format=torch.channels_last)
    models = {name: features(name) for name in names}
    settle_allocator()
    with torch.inference_mode():
        times = interleaved({n: lambda m=m: m(image) for n, m in models.items()}, seconds=0.0, limit=seconds)
        return [
            {
                "model": name,
                "parameters": count_params(model),
                "seconds": round(times[name], 4),
                "mib": round(peak_bytes(lambda m=model: m(image)) / 2**20, 1),
            }
            for name, model in models.items()
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long to time at most, beyond three turns")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, metavar=("H", "W"))
    options = parser.parse_args()
    size = (options.size[0], options.size[1])
    rows = measure(("unireplknet_a", "convnextv2_atto"), size, options.seconds)
    for row in rows:
        print(f"{row['model']:16} {row['seconds']:8.3f} s {row['mib']:9.1f} MiB")
    write_result("dense_features", {"command": "python benchmarks/dense_features.py", "size": size, "rows": rows})


if __name__ == "__main__":
    main()
