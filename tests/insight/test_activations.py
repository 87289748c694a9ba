from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn

from unireplknet.errors import UserError
from unireplknet.insight.activations import draw_stages, stage_maps
from unireplknet.modalities.panels import Panel


def test_maps_are_those_that_the_stages_give_on() -> None:
    model = timm.create_model("test_unireplknet").eval()
    sample = torch.randn(3, 64, 96)
    found: list[torch.Tensor] = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _, args, out: found.append(out[0].detach()))
    maps = stage_maps(model, sample)
    assert [tuple(m.shape) for m in maps] == [(16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    for one, other in zip(maps, found[:4], strict=True):
        torch.testing.assert_close(one, other)


def test_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match="Linear has no forward_intermediates"):
        stage_maps(nn.Linear(1, 1), torch.zeros(1))


def test_picture_of_stages_with_few_channels(tmp_path: Path) -> None:
    stages = [torch.randn(3, 8, 8), torch.randn(20, 2, 4), torch.zeros(1, 1, 1)]
    draw_stages([Panel(np.eye(8))], stages, "a.png", tmp_path / "s.png")
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("L"))
    assert 0.1 < (pixels < 250).mean() < 0.9
