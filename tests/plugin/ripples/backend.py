"""A backend: the convolution as a sum of shifted maps, one for each tap."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CALLS = 0


def can_use(x: Tensor, weight: Tensor, dilation: int) -> str | None:
    return None if x.device.type == "cpu" else "shifts runs on CPUs"


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    global CALLS
    CALLS += 1
    taps = weight.flatten(2).unbind(2)
    shifts = _shifts(x, (weight.shape[2], weight.shape[3]), dilation)
    y = torch.zeros_like(x)
    for tap, shifted in zip(taps, shifts, strict=True):
        y = y + shifted * tap[:, :, None]
    return y if bias is None else y + bias[:, None, None]


def grad_weight(x: Tensor, grad: Tensor, kernel_size: tuple[int, int], dilation: int) -> Tensor:
    taps = [(shifted * grad).sum((0, 2, 3)) for shifted in _shifts(x, kernel_size, dilation)]
    return torch.stack(taps, 1).reshape(-1, 1, *kernel_size)


def _shifts(x: Tensor, kernel_size: tuple[int, int], dilation: int) -> Iterator[Tensor]:
    height, width = kernel_size
    rows, columns = x.shape[2:]
    top, left = height // 2 * dilation, width // 2 * dilation
    padded = F.pad(x, (left, left, top, top))
    for i in range(0, height * dilation, dilation):
        for j in range(0, width * dilation, dilation):
            yield padded[:, :, i : i + rows, j : j + columns]
