"""Average precision as COCO has it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from unireplknet.errors import missing_extra

COCO: dict[str, Any] = {
    "backend": "faster_coco_eval",
    # torchmetrics' own are rounded to float32, and a recall of exactly 0.6 is then less than 0.6.
    "iou_thresholds": np.linspace(0.5, 0.95, 10).tolist(),
    "rec_thresholds": np.linspace(0, 1, 101).tolist(),
}
"""How COCO scores, for torchmetrics."""


def coco_scores(masks: bool = False, each_class: bool = False) -> MeanAveragePrecision:
    """COCO's average precision of boxes, and of masks.

    Args:
        masks: Whether there are masks.
        each_class: Whether to score each class too.

    Raises:
        UserError: The library is not installed.
    """
    kinds: Any = ("bbox", "segm") if masks else "bbox"
    with _naming_the_extra():
        return MeanAveragePrecision(iou_type=kinds, class_metrics=each_class, **COCO)


@contextmanager
def _naming_the_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra("faster_coco_eval", "detect") from error


class BoxPrecision(MeanAveragePrecision):
    """Average precision of boxes alone, as one number.

    Raises:
        UserError: The library is not installed.
    """

    def __init__(self) -> None:
        with _naming_the_extra():
            super().__init__(iou_type="bbox", **COCO)

    def compute(self) -> Any:
        """The mean over thresholds of 0.5 to 0.95 and classes; 0 where there is nothing to be found."""
        return super().compute()["map"].clamp_min(0)


def as_numbers(found: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """In the arithmetic that the scores are computed in, whatever the network's is."""
    return [{k: v.float() if v.is_floating_point() else v for k, v in image.items()} for image in found]
