"""What is done to the colours of images on which something is marked."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unireplknet.tasks.detect.data import Objects
from unireplknet.tasks.detect.inputs import DetectAugment, DetectInput
from unireplknet.tasks.segment.data import Pair
from unireplknet.tasks.segment.inputs import SegmentAugment, SegmentInput

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def test_distorted_red_is_red(tmp_path: Path) -> None:
    """A network that is to tell red from blue sees both as they are, lighter, darker, paler, and a little yellowish."""
    Image.fromarray(np.full((8, 8, 3), (200, 80, 60), np.uint8)).save(tmp_path / "a.png")
    segment, detect = SegmentInput(size=8, **PLAIN), DetectInput(short=8, long=8, **PLAIN)
    both = (
        (SegmentAugment(distort=True).bind(segment), segment.read(Pair(tmp_path / "a.png"))),
        (DetectAugment(distort=True).bind(detect), detect.read(Objects(tmp_path / "a.png"))),
    )
    for to_map, raw in both:
        torch.manual_seed(0)
        colours = torch.stack([to_map(raw)[0].mean((1, 2)) for _ in range(60)])
        assert (colours.argmax(1) == 0).all()
        original = torch.tensor([200, 80, 60]) / 255
        same = ((colours - original).abs() < 1 / 255).all(1).float().mean()
        assert same < 0.2  # none of the four in 1 of 16
        assert colours.std(0).min() > 0.03
