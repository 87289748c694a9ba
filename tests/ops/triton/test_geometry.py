"""Every tap of every output pixel is found in exactly one window."""

from hypothesis import given, settings
from hypothesis import strategies as st

from unireplknet.ops.triton.geometry import Geometry, cut


def windows(geometry: Geometry, line: int, column: int):
    """Map pixels that each step reads for the group at (line, column), as (pixel, place in the window)."""
    for step in range(geometry.steps):
        first = line + geometry.first_line + step // geometry.column_steps * geometry.line_step
        if geometry.segmented:
            start = column + step % geometry.column_steps * geometry.block_k - geometry.left
            places = [((first, start + k), k) for k in range(geometry.block_k)]
        else:
            width = geometry.width
            places = [((first + k // width, k % width), k) for k in range(geometry.window_rows * width)]
        yield [(pixel, k) for pixel, k in places if 0 <= pixel[0] < geometry.height and 0 <= pixel[1] < geometry.width]


odd = st.integers(0, 8).map(lambda n: 2 * n + 1)


@given(
    st.integers(1, 12),
    st.integers(1, 80),
    odd,
    odd,
    st.integers(1, 4),
    st.sampled_from([(32, 32), (32, 64), (64, 128)]),
)
@settings(max_examples=150, deadline=None)
def test_windows_hold_every_tap_once(height, width, kernel_height, kernel_width, dilation, tiles) -> None:
    geometry = cut(height, width, kernel_height, kernel_width, dilation, *tiles)
    covered = set()
    for line in range(0, height, geometry.rows):
        for column in range(0, width, geometry.block_n) if geometry.segmented else [0]:
            read = [pixel for window in windows(geometry, line, column) for pixel, k in window]
            found = set(read)
            assert len(read) == len(found)
            assert all(k < geometry.block_k for window in windows(geometry, line, column) for _, k in window)
            outputs = [
                (y, x)
                for y in range(line, min(line + geometry.rows, height))
                for x in range(column, min(column + (geometry.block_n if geometry.segmented else width), width))
            ]
            covered.update(outputs)
            for y, x in outputs:
                for tap_y in range(kernel_height):
                    for tap_x in range(kernel_width):
                        pixel = (
                            y + (tap_y - kernel_height // 2) * dilation,
                            x + (tap_x - kernel_width // 2) * dilation,
                        )
                        assert pixel in found or not (0 <= pixel[0] < height and 0 <= pixel[1] < width)
    assert len(covered) == height * width


def test_rows_are_grouped_and_wide_maps_cut() -> None:
    assert (cut(28, 28, 13, 13, 1, 64, 64).rows, cut(28, 28, 13, 13, 1, 64, 64).steps) == (2, 7)
    assert (cut(7, 7, 13, 13, 1, 64, 64).groups, cut(7, 7, 13, 13, 1, 64, 64).steps) == (1, 1)
    assert (cut(100, 168, 13, 13, 1, 64, 64).segments, cut(100, 168, 13, 13, 1, 64, 64).steps) == (6, 13)
