"""How a plane is cut into groups and windows for the Toeplitz product; plain integers, no torch, no triton."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import NamedTuple

# Tensor cores take tiles of at least this many pixels.
_SMALLEST_BLOCK = 16
# Outputs of a segment when a row is too wide for one group.
_SEGMENT = 32
# A plane of odd length starts at odd addresses; it is read from a multiple of this many elements before.
ALIGN = 8


class Kernel(NamedTuple):
    """Size and dilation of the depthwise kernels of one branch."""

    height: int
    width: int
    dilation: int = 1


class Walk(NamedTuple):
    """The lines of windows that a group visits for one kernel, relative to the group's first line."""

    first_line: int
    line_step: int
    line_steps: int


# Instances come from `cut` alone, which keeps them: comparing and hashing by identity is right, and launching a
# kernel, which hashes its compile-time arguments, does not pay for a hash of every field.
@dataclass(frozen=True, eq=False)
class Plane:
    """One way to cut planes. Lengths are counted in pixels.

    Two ways exist. A narrow map is cut into groups of ``rows`` whole rows, and a window is ``window_rows``
    whole rows. A wide map (``segmented``) is cut into segments of ``block_n`` pixels of one row, and a window
    is ``block_k`` pixels of one row.
    """

    height: int
    width: int
    segmented: bool
    rows: int
    window_rows: int
    left: int  # columns between the first window's start and the group's, segmented only
    column_steps: int
    block_k: int
    block_n: int
    align: int  # elements; 1 unless planes are read from an aligned address before them
    granule: int  # every first line and line step is a multiple of this many lines

    @cached_property
    def groups(self) -> int:
        """Groups of rows in a plane."""
        return -(-self.height // self.rows)

    @cached_property
    def segments(self) -> int:
        """Segments in a row."""
        return -(-self.width // self.block_n) if self.segmented else 1

    @cached_property
    def run_length(self) -> int:
        """Pixels that consecutive groups share: a row of segments, or a plane of groups of rows."""
        return self.width if self.segmented else self.height * self.width

    @cached_property
    def group_pixels(self) -> int:
        """Pixels of a full group."""
        return self.block_n if self.segmented else self.rows * self.width


class Cut(NamedTuple):
    """A plane's cut for several kernels that share it, and the windows each of them visits."""

    plane: Plane
    kernels: tuple[Kernel, ...]
    walks: tuple[Walk, ...]

    @property
    def steps(self) -> tuple[int, ...]:
        """Windows that a group reads, by kernel."""
        return tuple(walk.line_steps * self.plane.column_steps for walk in self.walks)


COLUMNS = (
    "first_line",
    "line_step",
    "steps",  # windows, line steps times column steps
    "first_matrix",  # among all the channel's Toeplitz matrices
    "kernel_height",
    "kernel_width",
    "dilation",
    "first_tap",  # among the taps of all kernels, in a channel
    "first_part",  # the first row that a Toeplitz matrix is the sum of ...
    "last_part",  # ... and the one after the last
    "first_scale",  # row of the scales that belongs to row 0 of the table
    "first_row",  # among the rows of taps of all kernels
)
"""What a `Table` says of a branch."""


@dataclass(frozen=True, eq=False)
class Table:
    """What differs from branch to branch of a launch, a row each, by `COLUMNS`."""

    rows: tuple[tuple[int, ...], ...]

    @cached_property
    def length(self) -> int:
        """Rows."""
        return len(self.rows)


@cache
def table(cuts: Cut, merged: bool) -> Table:
    """The table of a cut; with ``merged``, row 0 is the sum of the branches, which follow it.

    The scales of a merged row are rows 0 to n - 1, those of the branches behind it n to 2n - 1.

    Args:
        cuts: The cut.
        merged: Whether there is a merged row.
    """
    rows: list[tuple[int, ...]] = []
    count, matrix, tap, tap_row = len(cuts.kernels), 0, 0, 0
    if merged:
        kernel, walk, steps = cuts.kernels[0], cuts.walks[0], cuts.steps[0]
        rows.append((*walk[:2], steps, 0, *kernel, 0, 1, count + 1, -1, 0))
        matrix = steps
    for kernel, walk, steps in zip(cuts.kernels, cuts.walks, cuts.steps, strict=True):
        part = len(rows)
        scale = count - 1 if merged else 0
        rows.append((*walk[:2], steps, matrix, *kernel, tap, part, part + 1, scale, tap_row))
        matrix += steps
        tap += kernel.height * kernel.width
        tap_row += kernel.height
    return Table(tuple(rows))


def _whole(rows: int, granule: int) -> int:
    return rows // granule * granule or rows


def _block(pixels: int) -> int:
    return max(_SMALLEST_BLOCK, 1 << (pixels - 1).bit_length())


@cache
def cut(height: int, width: int, kernels: tuple[Kernel, ...], widest: int, window: int) -> Cut:
    """Choose the geometry for a map and the kernels of one or several branches.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        kernels: Kernels, of odd sizes.
        widest: Most pixels of a group of whole rows, or of a plane in one group.
        window: Most pixels of a window, at least ``widest``.
    """
    pixels = height * width
    segmented = width > widest
    # Row counts whose pixels are a multiple of 4 keep every window on an address that loads wide.
    granule = 4 // math.gcd(width, 4) if pixels % 4 == 0 else 1
    rows = 1 if segmented else _whole(min(height, widest // width), granule)
    sparse = rows == 1 and any(kernel.dilation > 1 for kernel in kernels)
    window_rows = 1 if segmented or sparse else _whole(min(height, window // width), granule)
    if not segmented:
        # No window is larger than the widest walk needs.
        window_rows = min(window_rows, max(_lines(height, rows, granule, kernel)[1] for kernel in kernels))
    left, column_steps = 0, 1
    if segmented:
        block_n = _SEGMENT
        reach = max(kernel.width // 2 * kernel.dilation for kernel in kernels)
        left = -(-reach // _SMALLEST_BLOCK) * _SMALLEST_BLOCK
        span = block_n + 2 * left
        block_k = min(_block(span), window)
        column_steps = -(-span // block_k)
    else:
        block_n, block_k = _block(rows * width), _block(window_rows * width)
    walks = tuple(_walk(height, width, rows, window_rows, granule, kernel) for kernel in kernels)
    one_window = not segmented and rows == height and all(walk.line_steps == 1 for walk in walks)
    fits = pixels + ALIGN - 1 <= min(block_k, block_n)
    plane = Plane(
        height=height,
        width=width,
        segmented=segmented,
        rows=rows,
        window_rows=window_rows,
        left=left,
        column_steps=column_steps,
        block_k=block_k,
        block_n=block_n,
        align=ALIGN if one_window and pixels % ALIGN and fits else 1,
        granule=math.gcd(granule, *_offsets(walks)),
    )
    return Cut(plane, kernels, walks)


def _offsets(walks: Iterable[Walk]) -> Iterable[int]:
    return (line for walk in walks for line in (walk.first_line, walk.line_step))


def _lines(height: int, rows: int, granule: int, kernel: Kernel) -> tuple[int, int]:
    """First line that a group meets, and how many from there on."""
    reach = kernel.height // 2 * kernel.dilation
    groups = -(-height // rows)
    first = -min(-(-reach // granule) * granule, (groups - 1) * rows)
    return first, min(rows - 1 + reach, height - 1) - first + 1


def _walk(height: int, width: int, rows: int, window_rows: int, granule: int, kernel: Kernel) -> Walk:
    aligned = kernel.dilation % granule == 0 or rows == 1
    if kernel.dilation > 1 and rows == window_rows <= kernel.dilation and aligned:
        # A window for each row of taps holds all that the group's lines meet; what lies between meets no tap. No
        # wider ones: they would overlap and count taps twice.
        above = min(kernel.height // 2, (height - 1) // kernel.dilation)
        return Walk(-above * kernel.dilation, kernel.dilation, 2 * above + 1)
    first, lines = _lines(height, rows, granule, kernel)
    return Walk(first, window_rows, -(-lines // window_rows))
