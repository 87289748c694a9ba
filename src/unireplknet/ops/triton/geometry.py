"""How a plane is cut into groups and windows for the Toeplitz GEMM; plain integers, no torch, no triton."""

import math
from dataclasses import dataclass
from functools import cache, cached_property

# Tensor cores take tiles of at least this many pixels.
_SMALLEST_BLOCK = 16
# Outputs of a segment when a row is too wide for one group.
_SEGMENT = 32
# A plane of odd length starts at odd addresses; it is read from a multiple of this many elements before.
ALIGN = 8


@dataclass(frozen=True)
class Geometry:
    """One way to cut planes, and the convolution it serves. Lengths are counted in pixels.

    Two ways exist. A narrow map is cut into groups of ``rows`` whole rows, and a window is ``window_rows``
    whole rows. A wide map (``segmented``) is cut into segments of ``block_n`` pixels of one row, and a window
    is ``block_k`` pixels of one row. A group reads ``line_steps * column_steps`` windows.
    """

    height: int
    width: int
    kernel_height: int
    kernel_width: int
    dilation: int
    segmented: bool
    rows: int
    window_rows: int
    first_line: int  # of the first window, relative to the group
    line_step: int
    line_steps: int
    left: int  # columns between the first window's start and the group's, segmented only
    column_steps: int
    block_k: int
    block_n: int
    align: int  # elements; 1 unless planes are read from an aligned address before them

    @cached_property
    def groups(self) -> int:
        """Groups of rows in a plane."""
        return -(-self.height // self.rows)

    @cached_property
    def segments(self) -> int:
        """Segments in a row."""
        return -(-self.width // self.block_n) if self.segmented else 1

    @cached_property
    def steps(self) -> int:
        """Windows that a group reads."""
        return self.line_steps * self.column_steps


def _whole(rows: int, granule: int) -> int:
    return rows // granule * granule or rows


def _block(pixels: int) -> int:
    return max(_SMALLEST_BLOCK, 1 << (pixels - 1).bit_length())


@cache
def cut(
    height: int, width: int, kernel_height: int, kernel_width: int, dilation: int, widest: int, window: int
) -> Geometry:
    """Choose the geometry for a map and kernel.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        kernel_height: Rows of the kernel, odd.
        kernel_width: Columns of the kernel, odd.
        dilation: Spacing between kernel taps.
        widest: Most pixels of a group of whole rows, or of a plane in one group.
        window: Most pixels of a window, at least ``widest``.
    """
    plane = height * width
    segmented = width > widest
    # Row counts whose pixels are a multiple of 4 keep every window on an address that loads wide.
    granule = 4 // math.gcd(width, 4) if plane % 4 == 0 else 1
    rows = 1 if segmented else _whole(min(height, widest // width), granule)
    window_rows = 1 if segmented else _whole(min(height, window // width), granule)
    groups = -(-height // rows)
    if rows == 1 and dilation > 1:
        # Only every dilation-th row meets a tap, and taps that never meet the map are not visited.
        above = min(kernel_height // 2, (height - 1) // dilation)
        window_rows, line_step, line_steps, first_line = 1, dilation, 2 * above + 1, -above * dilation
    else:
        reach = kernel_height // 2 * dilation
        first_line = -min(-(-reach // granule) * granule, (groups - 1) * rows)
        lines = min(rows - 1 + reach, height - 1) - first_line + 1
        window_rows = min(window_rows, lines)
        line_step, line_steps = window_rows, -(-lines // window_rows)

    left, column_steps = 0, 1
    if segmented:
        block_n = _SEGMENT
        left = -(-(kernel_width // 2 * dilation) // _SMALLEST_BLOCK) * _SMALLEST_BLOCK
        span = block_n + 2 * left
        block_k = min(_block(span), window)
        column_steps = -(-span // block_k)
    else:
        block_n, block_k = _block(rows * width), _block(window_rows * width)
    one_window = not segmented and groups == 1 and line_steps == 1
    fits = plane + ALIGN - 1 <= min(block_k, block_n)
    return Geometry(
        height=height,
        width=width,
        kernel_height=kernel_height,
        kernel_width=kernel_width,
        dilation=dilation,
        segmented=segmented,
        rows=rows,
        window_rows=window_rows,
        first_line=first_line,
        line_step=line_step,
        line_steps=line_steps,
        left=left,
        column_steps=column_steps,
        block_k=block_k,
        block_n=block_n,
        align=ALIGN if one_window and plane % ALIGN and fits else 1,
    )
