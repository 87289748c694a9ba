"""The profile's parts are the network's, and its count of arithmetic is that of the layers."""

from collections.abc import Callable

import pytest
import timm
import torch
from step_profile import label_parts, measure
from torch import nn

import unireplknet

BATCH, SIZE = 2, 64


def pointwise_gflop(model: nn.Module) -> float:
    """Two layers of C x 4C on each pixel of each block."""
    total, side = 0, SIZE // 4
    for number, stage in enumerate(model.stages):
        channels = model.feature_info[number]["num_chs"]
        total += len(stage.blocks) * 2 * 2 * BATCH * (side >> number) ** 2 * channels * 4 * channels
    return total / 1e9


def training(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    return lambda: model(x).sum().backward()


def inference(model: nn.Module, x: torch.Tensor) -> Callable[[], None]:
    @torch.inference_mode()
    def run() -> None:
        model(x)

    return run


@pytest.mark.parametrize("name", ["unireplknet_a", "convnextv2_atto"])
@pytest.mark.parametrize("make", [training, inference])
def test_parts_and_arithmetic(name: str, make: Callable[[nn.Module, torch.Tensor], Callable[[], None]]) -> None:
    model = timm.create_model(name).train(make is training)
    if make is inference:
        unireplknet.reparameterize(model)
    gflop = pointwise_gflop(model)
    label_parts(model)
    entry = measure({name: make(model, torch.randn(BATCH, 3, SIZE, SIZE))}, steps=1)[name]
    parts = entry["ms_of_parts"]
    assert sum(sum(passes.values()) for passes in parts.values()) == pytest.approx(entry["ms_of_all_parts"], abs=2)
    assert entry["pointwise_gflop"]["forward"] == pytest.approx(gflop, abs=0.006)
    assert ("SE" in parts) == (name == "unireplknet_a")
    if make is training:
        assert entry["pointwise_gflop"]["backward"] == pytest.approx(2 * gflop, abs=0.006)
        assert all(parts[part]["backward"] > 0 for part in parts if part != "shortcut, loss, other")
    else:
        assert all("backward" not in passes for passes in parts.values())
