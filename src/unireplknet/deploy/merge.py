"""Merging a trained network, and the check that nothing changed by it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from unireplknet.errors import UserError


def merged_copy(model: nn.Module) -> nn.Module:
    """The inference form of a network: one convolution a block, no BatchNorm; the network itself stays as it is."""
    reparameterize = getattr(merged := copy.deepcopy(model).eval(), "reparameterize", None)
    if reparameterize is None:
        raise UserError(f"{type(model).__name__} has no reparameterize(); only UniRepLKNet merges")
    reparameterize()
    return merged


@torch.inference_mode()
def relative_error(model: nn.Module, reference: nn.Module, maps: Tensor) -> float:
    """Largest difference between the outputs of two networks, over the largest output of the second."""
    found, wanted = model.eval()(maps), reference.eval()(maps)
    return ((found - wanted).abs().max() / wanted.abs().max()).item()
