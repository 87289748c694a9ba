"""torch.hub finds the networks in a checkout."""

import runpy
from pathlib import Path

import pytest
import torch

import unireplknet

CHECKOUT = Path(__file__).parents[1]


def test_every_variant_is_an_entry_point() -> None:
    found = runpy.run_path(str(CHECKOUT / "hubconf.py"))
    public = {name for name, value in found.items() if callable(value) and not name.startswith("_")}
    assert set(unireplknet.list_models()) <= public
    assert "Tag of released weights" in found["unireplknet_a"].__doc__


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 3, "in_chans": 1}])
def test_a_network_is_that_of_create_model(kwargs: dict[str, int]) -> None:
    model = torch.hub.load(str(CHECKOUT), "unireplknet_a", source="local", **kwargs)
    expected = unireplknet.create_model("unireplknet_a", **kwargs)
    shapes = [{name: value.shape for name, value in net.state_dict().items()} for net in (model, expected)]
    assert shapes[0] == shapes[1]
