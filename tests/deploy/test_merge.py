import pytest
import torch
from torch import nn

import unireplknet
from unireplknet.deploy.merge import merged_copy, relative_error
from unireplknet.errors import UserError


def test_merging_a_copy_leaves_the_network_as_it_was() -> None:
    model = unireplknet.create_model("test_unireplknet", in_chans=2, num_classes=3).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    merged = merged_copy(model)
    assert merged.merged
    assert not model.merged
    assert model.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_relative_error_is_of_the_largest_output() -> None:
    class Scale(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    maps = torch.tensor([[1.0, -8.0]])
    assert relative_error(Scale(1.5), Scale(1.0), maps) == pytest.approx(0.5)
    assert relative_error(Scale(1.0), Scale(1.0), maps) == 0


def test_other_networks_are_refused() -> None:
    with pytest.raises(UserError, match=r"Linear has no reparameterize\(\); only UniRepLKNet merges"):
        merged_copy(nn.Linear(1, 1))
