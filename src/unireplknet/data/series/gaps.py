"""Missing measurements."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def nan_mean(values: np.ndarray, axis: int | tuple[int, ...], keepdims: bool = False, empty: float = 0.0) -> np.ndarray:
    """Return the mean of what was measured.

    Args:
        values: Measurements, NaN where there is none.
        axis: Axes to take the mean over.
        keepdims: Whether to keep these axes, with length 1.
        empty: The mean of nothing.
    """
    known = ~np.isnan(values)
    count = known.sum(axis, keepdims=keepdims)
    total = np.where(known, values, 0).sum(axis, keepdims=keepdims, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), empty)


def hold_last(values: Tensor, known: Tensor) -> Tensor:
    """Fill each gap with the last measurement before it, or with the first one if the window begins with a gap.

    Args:
        values: Measurements, shape (B, variables, L, stations); any finite number in gaps, which stays where a station
            has no measurement at all.
        known: Whether there is a measurement, same shape.
    """
    rows = torch.arange(values.shape[2], device=values.device)[:, None]
    # The running maximum as a pooling over all rows before: ONNX has no cummax.
    numbers = F.pad(torch.where(known, rows, -1).float(), (0, 0, len(rows) - 1, 0), value=-1)
    last = F.max_pool2d(numbers, (len(rows), 1), 1).long()
    first = torch.where(known, rows, values.shape[2] - 1).amin(2, keepdim=True)
    return values.gather(2, torch.where(last < 0, first, last))
