"""The network defined branch by branch with torch.nn.functional alone, in float64.

It reads parameters from a state dict in training form and shares no code with the package: no merge, no module's
forward, no convolution of ours.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def batch_norm(x: Tensor, s: State, p: str) -> Tensor:
    return F.batch_norm(x, s[f"{p}.running_mean"], s[f"{p}.running_var"], s[f"{p}.weight"], s[f"{p}.bias"], eps=1e-5)


def layer_norm(x: Tensor, s: State, p: str) -> Tensor:
    x = x.permute(0, 2, 3, 1)
    return F.layer_norm(x, x.shape[-1:], s[f"{p}.weight"], s[f"{p}.bias"], 1e-6).permute(0, 3, 1, 2)


def depthwise(x: Tensor, weight: Tensor, dilation: int = 1) -> Tensor:
    padding = [(k - 1) // 2 * dilation for k in weight.shape[2:]]
    return F.conv2d(x, weight, padding=padding, dilation=dilation, groups=x.shape[1])


def dilated_reparam(x: Tensor, s: State, p: str, dilations: list[int]) -> Tensor:
    y = torch.zeros_like(x)
    for i, r in enumerate([1, *dilations]):
        branch = f"{p}.branches.{i}"
        y = y + batch_norm(depthwise(x, s[f"{branch}.conv.weight"], r), s, f"{branch}.bn")
    return y


def grn(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    gx = (x * x).sum((1, 2), keepdim=True).sqrt()
    nx = gx / (gx.mean(-1, keepdim=True) + 1e-6)
    return gamma * (x * nx) + beta + x


def squeeze_excite(x: Tensor, s: State, p: str) -> Tensor:
    z = x.mean((2, 3), keepdim=True)
    z = F.relu(F.conv2d(z, s[f"{p}.fc1.weight"], s[f"{p}.fc1.bias"]))
    return x * torch.sigmoid(F.conv2d(z, s[f"{p}.fc2.weight"], s[f"{p}.fc2.bias"]))


def extra_convs(x: Tensor, s: State, p: str) -> Tensor:
    y, i = x, 0
    while f"{p}.layers.{i}.conv.weight" in s:
        y = F.relu(y) if i else y
        weight = s[f"{p}.layers.{i}.conv.weight"]
        depth = weight.shape[1] == 1 and weight.shape[-1] == 3
        y = depthwise(y, weight) if depth else F.conv2d(y, weight)
        y = batch_norm(y, s, f"{p}.layers.{i}.bn")
        i += 1
    return x + y


def block(x: Tensor, s: State, p: str, dilations: list[int]) -> Tensor:
    y = x
    if f"{p}.dwconv.branches.0.conv.weight" in s:
        y = dilated_reparam(y, s, f"{p}.dwconv", dilations)
    elif f"{p}.dwconv.weight" in s:
        y = depthwise(y, s[f"{p}.dwconv.weight"])
    if f"{p}.norm.weight" in s:
        y = batch_norm(y, s, f"{p}.norm")
    if f"{p}.extra.fc1.weight" in s:
        y = squeeze_excite(y, s, f"{p}.extra")
    elif f"{p}.extra.layers.0.conv.weight" in s:
        y = extra_convs(y, s, f"{p}.extra")
    y = F.linear(y.permute(0, 2, 3, 1), s[f"{p}.pwconv1.weight"], s[f"{p}.pwconv1.bias"])
    y = grn(F.gelu(y), s[f"{p}.grn.weight"], s[f"{p}.grn.bias"])
    y = F.linear(y, s[f"{p}.pwconv2.weight"]).permute(0, 3, 1, 2)
    y = batch_norm(y, s, f"{p}.norm2")
    if f"{p}.layer_scale" in s:
        y = y * s[f"{p}.layer_scale"][:, None, None]
    return x + y


def network(
    x: Tensor, state: State, branches: Mapping[int, list[tuple[int, int]]], stem_stride: int = 4
) -> tuple[list[Tensor], Tensor]:
    """Stage outputs and logits, in the precision of ``x``.

    Args:
        x: Input of shape (B, C', H, W).
        state: Training-form state dict.
        branches: (k, r) of the parallel branches by kernel size.
        stem_stride: Stride of the stem.
    """
    s = {key: value.to(x.dtype) for key, value in state.items()}
    first, second = {4: (2, 2), 2: (2, 1), 1: (1, 1)}[stem_stride]
    x = F.conv2d(x, s["stem.conv1.weight"], s["stem.conv1.bias"], first, padding=1)
    x = F.gelu(layer_norm(x, s, "stem.norm1"))
    x = layer_norm(F.conv2d(x, s["stem.conv2.weight"], s["stem.conv2.bias"], second, padding=1), s, "stem.norm2")
    outputs = []
    for i in range(4):
        p = f"stages.{i}"
        if i:
            weight, bias = s[f"{p}.downsample.conv.weight"], s[f"{p}.downsample.conv.bias"]
            x = layer_norm(F.conv2d(x, weight, bias, 2, padding=1), s, f"{p}.downsample.norm")
        j = 0
        while f"{p}.blocks.{j}.pwconv1.weight" in s:
            main = s.get(f"{p}.blocks.{j}.dwconv.branches.0.conv.weight")
            dilations = [] if main is None else [r for _, r in branches[main.shape[-1]]]
            x = block(x, s, f"{p}.blocks.{j}", dilations)
            j += 1
        outputs.append(x)
    z = x.mean((2, 3))
    z = F.layer_norm(z, z.shape[-1:], s["head.norm.weight"], s["head.norm.bias"], 1e-6)
    return outputs, F.linear(z, s["head.fc.weight"], s["head.fc.bias"])
