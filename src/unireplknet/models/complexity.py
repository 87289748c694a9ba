"""Parameters and MACs, computed from a model and beside the printed figures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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


def count_macs(
    model: nn.Module, shape: tuple[int, int, int], forward: Callable[[torch.Tensor], Any] | None = None
) -> int:
    """Multiply-accumulates of a network's convolutions and matrix products for one map, forward only.

    Args:
        model: A network on the meta device. In training mode parallel branches are computed, otherwise their merge.
        shape: Channels, height and width of the map.
        forward: A method of it that is counted instead of its forward.
    """
    dtype = next(model.parameters()).dtype
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        (forward or model)(
            torch.empty(2, *shape, dtype=dtype, device="meta")
        )  # two, for batch statistics of 1 x 1 maps
    return counter.get_total_flops() // 4


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
    params = count_params(model)
    macs = count_macs(model, (3, row.size, row.size))
    return Complexity(training_params, params, params - _uncounted(model), macs)
