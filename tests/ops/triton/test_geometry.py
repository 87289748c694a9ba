"""Every tap of every output pixel is found in exactly one window, for each of the kernels that share a cut."""

from hypothesis import given, settings
from hypothesis import strategies as st

from unireplknet.ops.triton.geometry import COLUMNS, Cut, Kernel, Walk, cut, table


def windows(cuts: Cut, walk: Walk, line: int, column: int):
    """Map pixels that each step reads for the group at (line, column), as (pixel, place in the window)."""
    plane = cuts.plane
    for step in range(walk.line_steps * plane.column_steps):
        first = line + walk.first_line + step // plane.column_steps * walk.line_step
        if plane.segmented:
            start = column + step % plane.column_steps * plane.block_k - plane.left
            places = [((first, start + k), k) for k in range(plane.block_k)]
        else:
            width = plane.width
            places = [((first + k // width, k % width), k) for k in range(plane.window_rows * width)]
        yield [(pixel, k) for pixel, k in places if 0 <= pixel[0] < plane.height and 0 <= pixel[1] < plane.width]


def is_joined(
    cuts: Cut, kernel: Kernel, walk: Walk, step: int, pixel: tuple[int, int], output: tuple[int, int]
) -> bool:
    """Whether the Toeplitz matrix of a step has a tap between a pixel of its window and an output of the group."""
    y, x = (p - o for p, o in zip(pixel, output, strict=True))
    tap_y, tap_x = y + kernel.dilation * (kernel.height // 2), x + kernel.dilation * (kernel.width // 2)
    return all(
        tap % kernel.dilation == 0 and 0 <= tap // kernel.dilation < size
        for tap, size in ((tap_y, kernel.height), (tap_x, kernel.width))
    )


odd = st.integers(0, 6).map(lambda n: 2 * n + 1)
kernels = st.lists(st.builds(Kernel, odd, odd, st.integers(1, 5)), min_size=1, max_size=3).map(tuple)


@given(st.integers(1, 12), st.integers(1, 80), kernels, st.sampled_from([(32, 32), (32, 64), (64, 128), (128, 128)]))
@settings(max_examples=80, deadline=None)
def test_every_tap_is_met_once(height, width, kernels, tiles) -> None:
    cuts = cut(height, width, kernels, *tiles)
    plane = cuts.plane
    covered = set()
    for kernel, walk in zip(kernels, cuts.walks, strict=True):
        for line in range(0, height, plane.rows):
            for column in range(0, width, plane.block_n) if plane.segmented else [0]:
                outputs = [
                    (y, x)
                    for y in range(line, min(line + plane.rows, height))
                    for x in range(column, min(column + (plane.block_n if plane.segmented else width), width))
                ]
                covered.update(outputs)
                met: dict[tuple[int, int], int] = {}
                for step, window in enumerate(windows(cuts, walk, line, column)):
                    assert all(k < plane.block_k for _, k in window)
                    for pixel, _ in window:
                        met[pixel] = met.get(pixel, 0) + any(
                            is_joined(cuts, kernel, walk, step, pixel, output) for output in outputs
                        )
                assert max(met.values(), default=0) <= 1  # two windows with one tap would count it twice
                for y, x in outputs:
                    for tap_y in range(kernel.height):
                        for tap_x in range(kernel.width):
                            pixel = (
                                y + (tap_y - kernel.height // 2) * kernel.dilation,
                                x + (tap_x - kernel.width // 2) * kernel.dilation,
                            )
                            assert met.get(pixel) == 1 or not (0 <= pixel[0] < height and 0 <= pixel[1] < width)
    assert len(covered) == height * width


@given(st.integers(1, 40), st.integers(1, 40), kernels)
@settings(max_examples=80, deadline=None)
def test_lines_are_multiples_of_the_granule(height, width, kernels) -> None:
    """The kernels round to it, so that the compiler sees how far addresses are aligned."""
    cuts = cut(height, width, kernels, 64, 64)
    assert cuts.plane.granule >= 1 or all(walk.first_line == walk.line_step == 0 for walk in cuts.walks)
    assert all(line % max(1, cuts.plane.granule) == 0 for walk in cuts.walks for line in walk[:2])


def test_rows_are_grouped_and_wide_maps_cut() -> None:
    large = (Kernel(13, 13),)
    assert (cut(28, 28, large, 64, 64).plane.rows, cut(28, 28, large, 64, 64).steps) == (2, (7,))
    assert (cut(7, 7, large, 64, 64).plane.groups, cut(7, 7, large, 64, 64).steps) == (1, (1,))
    assert (cut(100, 168, large, 64, 64).plane.segments, cut(100, 168, large, 64, 64).steps) == (6, (13,))


def test_a_dilated_kernel_visits_its_rows_of_taps_alone() -> None:
    cuts = cut(28, 28, (Kernel(13, 13), Kernel(3, 3, 4)), 64, 64)
    assert cuts.steps == (7, 3)


def test_the_table_numbers_matrices_taps_and_rows() -> None:
    cuts = cut(28, 28, (Kernel(13, 13), Kernel(5, 5), Kernel(3, 3, 4)), 64, 64)
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in table(cuts, merged=False).rows]
    assert [row["first_matrix"] for row in rows] == [0, 7, 10]
    assert [row["first_tap"] for row in rows] == [0, 169, 194]
    assert [row["first_row"] for row in rows] == [0, 13, 18]
    merged = [dict(zip(COLUMNS, row, strict=True)) for row in table(cuts, merged=True).rows]
    assert [row["first_matrix"] for row in merged] == [0, 7, 14, 17]
    assert [(row["first_part"], row["last_part"]) for row in merged] == [(1, 4), (1, 2), (2, 3), (3, 4)]
