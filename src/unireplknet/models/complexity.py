"""Parameters and MACs, computed from a model and beside the printed figures."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unireplknet.models.backbone import UniRepLKNet
from unireplknet.models.published import Row
from unireplknet.nn.blocks import Downsample, Stem
from unireplknet.nn.layers import GlobalResponseNorm


@dataclass(frozen=True)
class Complexity:
    """Size and cost of a network.

    Attributes:
        training_params: Parameters in training form.
        params: Parameters of the merged network.
        published_params: Parameters as the paper counts them: merged, without GRN's gamma and the channel
            LayerNorms of stem and downsampling.
        macs: Multiply-accumulates of the merged network's convolutions and matrix products, one image.
    """

    training_params: int
    params: int
    published_params: int
    macs: int


def count_params(model: nn.Module) -> int:
    """Number of parameters of a module."""
    return sum(p.numel() for p in model.parameters())


def _uncounted(model: UniRepLKNet) -> int:
    downsampling = [m for m in model.modules() if isinstance(m, Stem | Downsample)]
    layers: list[nn.Module] = [norm for m in downsampling for norm in m.modules() if isinstance(norm, nn.LayerNorm)]
    layers += [m for m in model.modules() if isinstance(m, GlobalResponseNorm)]
    return sum(count_params(layer) for layer in layers)


def complexity(row: Row, num_classes: int = 1000) -> Complexity:
    """Compute size and cost of a row of the paper, on the meta device: no memory, no arithmetic.

    Args:
        row: The row.
        num_classes: Classes of the head.

    Returns:
        The figures.

    Source:
        The counting rule was found by computing: it reproduces all printed parameter counts.
    """
    with torch.device("meta"):
        model = UniRepLKNet(num_classes=num_classes, **row.kwargs).eval()
        training_params = count_params(model)
        model.reparameterize()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, 3, row.size, row.size))
    params = count_params(model)
    return Complexity(training_params, params, params - _uncounted(model), counter.get_total_flops() // 2)
