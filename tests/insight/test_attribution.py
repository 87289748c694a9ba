import sys

import pytest
import torch
from torch import nn

import unireplknet
from tests.nn.helpers import randomise
from unireplknet.errors import UserError
from unireplknet.insight.attribution import attribute

pytest.importorskip("captum")


def test_of_a_linear_network_each_number_adds_its_weight_times_its_height_over_the_blank() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    sample = torch.randn(1, 3, 4, dtype=torch.float64)
    found = attribute(model, sample, 2, blank=0.5)
    wanted = model[1].weight[2].view(1, 3, 4) * (sample - 0.5)
    torch.testing.assert_close(found.weights, wanted.detach(), rtol=1e-7, atol=0)  # captum's steps are float32
    assert found.gap < 1e-6


def test_attributions_add_up_to_the_logit() -> None:
    model = randomise(unireplknet.create_model("test_unireplknet", num_classes=4, in_chans=2)).double().eval()
    sample = torch.randn(2, 32, 32, dtype=torch.float64)
    found = attribute(model, sample, 1, steps=200)
    with torch.no_grad():
        difference = (model(sample[None]) - model(torch.zeros(1, 2, 32, 32, dtype=torch.float64)))[0, 1]
    assert found.weights.shape == sample.shape
    assert found.weights.sum().item() == pytest.approx(difference.item(), rel=0.02)
    assert found.gap < 0.02


def test_without_captum_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r'captum is not installed; run: pip install "unireplknet\[inspect\]"'):
        attribute(nn.Flatten(), torch.zeros(1, 1, 1), 0)
