"""Random but realistic parameters and the error measure of the project."""

import torch
from torch import Tensor, nn


def relative_error(a: Tensor, b: Tensor) -> float:
    """max|a - b| / max|b|."""
    a, b = a.double(), b.double()
    return ((a - b).abs().max() / b.abs().max()).item()


def randomise(model: nn.Module, seed: int = 0, extreme: bool = False) -> nn.Module:
    """Give every parameter and statistic the spread of a trained network, or far beyond.

    Args:
        model: The model, changed in place.
        seed: Seed of the values.
        extreme: Variances over ten decades, far below the norm's eps and far above 1.
    """
    g = torch.Generator().manual_seed(seed)

    def uniform(like: Tensor, low: float, high: float) -> Tensor:
        return (torch.rand(like.shape, generator=g, dtype=torch.float64) * (high - low) + low).to(like)

    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                decades = (-7, 3) if extreme else (-1, 1)
                module.running_var.copy_(10 ** uniform(module.running_var, *decades))
                module.running_mean.copy_(uniform(module.running_mean, -3, 3))
                module.weight.copy_(uniform(module.weight, 0.3, 1.7))
                if extreme:
                    # Without the norm's own scale beside it, a variance of 1e-7 would only overflow float32.
                    module.weight.mul_((module.running_var + module.eps).sqrt())
                module.bias.copy_(uniform(module.bias, -0.5, 0.5))
            elif name.endswith(".grn"):
                module.weight.copy_(uniform(module.weight, -1, 1))
                module.bias.copy_(uniform(module.bias, -1, 1))
            elif isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(uniform(module.weight, -1, 1) * (3 / fan_in) ** 0.5)
                if module.bias is not None:
                    module.bias.copy_(uniform(module.bias, -0.2, 0.2))
            if getattr(module, "layer_scale", None) is not None:
                module.layer_scale.copy_(uniform(module.layer_scale, -1, 1))
    return model
