"""The depthwise convolution written out tap by tap in float64, for every test to compare with."""

import torch
import torch.nn.functional as F
from torch import Tensor


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None = None, dilation: int = 1) -> Tensor:
    """y[c, i, j] = bias[c] + sum over taps of weight[c, p, q] * x[c, i + offset(p), j + offset(q)]."""
    rows, columns = x.shape[2:]
    reach_h, reach_w = (k // 2 * dilation for k in weight.shape[2:])
    padded = F.pad(x.double(), (reach_w, reach_w, reach_h, reach_h))
    y = torch.zeros_like(x, dtype=torch.float64)
    for p in range(weight.shape[2]):
        for q in range(weight.shape[3]):
            top, left = p * dilation, q * dilation
            window = padded[:, :, top : top + rows, left : left + columns]
            y = y + weight[:, 0, p, q].double().view(-1, 1, 1) * window
    return y if bias is None else y + bias.double().view(-1, 1, 1)


def with_gradients(function, x, weight, bias, dilation, grad):
    """Output and the gradients of x, weight and (if given) bias, for an upstream gradient."""
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias) if t is not None]
    y = function(*inputs, *([None] if bias is None else []), dilation)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


def exactly(x, weight, bias, dilation, grad):
    """Float64 output and gradients of the definition, for inputs of any dtype."""
    double = [None if t is None else t.double() for t in (x, weight, bias)]
    return with_gradients(depthwise, *double, dilation, grad)


def relative_error(got: Tensor, expected: Tensor) -> float:
    """RMS of the difference over RMS of the expected tensor."""
    return ((got.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-300)).item()
