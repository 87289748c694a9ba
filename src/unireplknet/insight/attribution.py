"""Which parts of a sample made the network say what it said."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unireplknet.errors import missing_extra


@dataclass(frozen=True)
class Attribution:
    """How much each number of a map adds to the logit of a class.

    Attributes:
        weights: Shape (C, H, W); they add up to the logit of the map less that of the blank one.
        gap: How far they are from doing so, as a part of that difference; a large one wants more steps.
    """

    weights: Tensor
    gap: float


def attribute(model: nn.Module, sample: Tensor, target: int, blank: float = 0.0, steps: int = 64) -> Attribution:
    """Attribute the logit of a class to the numbers of a map by integrated gradients.

    Args:
        model: The network, from (B, C, H, W) to logits (B, classes).
        sample: The map, shape (C, H, W).
        target: The class.
        blank: What a map has where there is nothing; the gradients are followed from a map full of it.
        steps: Maps on the way between the two.

    Raises:
        UserError: captum is not installed.

    Source:
        Sundararajan et al., Axiomatic Attribution for Deep Networks; computed by captum.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as error:
        raise missing_extra("captum", "inspect") from error
    maps = torch.stack([sample, torch.full_like(sample, blank)])
    with torch.enable_grad():
        weights = IntegratedGradients(model.eval()).attribute(
            maps[:1], maps[1:], target=target, n_steps=steps, internal_batch_size=8
        )[0]
    with torch.no_grad():
        seen, nothing = model(maps)[:, target].tolist()
    difference = seen - nothing
    return Attribution(weights.detach(), abs(float(weights.sum()) - difference) / max(abs(difference), 1e-12))
