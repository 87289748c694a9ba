"""Address arithmetic of the kernels. Interpreted."""

import torch
import triton
import triton.language as tl

from unireplknet.ops.triton.geometry import Kernel, cut
from unireplknet.ops.triton.kernels import conv as kernels


@triton.jit
def _addresses(image_ptr, plane_ptr, channels, channel, P: tl.constexpr):
    rows = tl.arange(0, 16)
    image, _, _ = kernels._locate(rows, 16, channels, P)
    tl.store(image_ptr + rows, image)
    tl.store(plane_ptr, kernels._plane(channel, P))


def test_offsets_pass_31_bits() -> None:
    """Planes of 2**6 pixels, 2**27 channels: each image is 2**33 elements."""
    image, plane = torch.empty(16, dtype=torch.int64), torch.empty(1, dtype=torch.int64)
    _addresses[(1,)](image, plane, 2**27, 2**27 - 1, cut(8, 8, (Kernel(3, 3),), 64, 64).plane)
    assert image.tolist() == [row * 2**33 for row in range(16)]
    assert plane.item() == (2**27 - 1) * 64
