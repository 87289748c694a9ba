"""Triton kernels of the depthwise convolution as a grouped Toeplitz GEMM.

A plane of one channel is cut into groups of consecutive output pixels. All (image, group) pairs of the
channel are the rows of a matrix product: a row holds a window of input pixels, and the Toeplitz matrix of the
channel spreads the kernel taps so that the sum over windows of window @ Toeplitz is the group.
``geometry.py`` says how planes are cut; its numbers are compile-time constants here (``P``), which is what
lets the loads vectorize.

One launch serves one kernel or all branches of a Dilated Reparam Block. What differs from branch to branch is
another compile-time constant (``T``, a `geometry.Table`), of which a program picks its branch's row.

In shapes, M is rows of the product, K window pixels, N group pixels.
"""

# The types of kernel arguments are Triton's, not Python's.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl

from unireplknet.ops.triton.geometry import COLUMNS

# Columns of the table.
FIRST_LINE: tl.constexpr = tl.constexpr(COLUMNS.index("first_line"))
LINE_STEP: tl.constexpr = tl.constexpr(COLUMNS.index("line_step"))
STEPS: tl.constexpr = tl.constexpr(COLUMNS.index("steps"))
FIRST_MATRIX: tl.constexpr = tl.constexpr(COLUMNS.index("first_matrix"))
KERNEL_HEIGHT: tl.constexpr = tl.constexpr(COLUMNS.index("kernel_height"))
KERNEL_WIDTH: tl.constexpr = tl.constexpr(COLUMNS.index("kernel_width"))
DILATION: tl.constexpr = tl.constexpr(COLUMNS.index("dilation"))
FIRST_TAP: tl.constexpr = tl.constexpr(COLUMNS.index("first_tap"))
FIRST_PART: tl.constexpr = tl.constexpr(COLUMNS.index("first_part"))
LAST_PART: tl.constexpr = tl.constexpr(COLUMNS.index("last_part"))
FIRST_SCALE: tl.constexpr = tl.constexpr(COLUMNS.index("first_scale"))
FIRST_ROW: tl.constexpr = tl.constexpr(COLUMNS.index("first_row"))


@triton.jit
def _pick(column: tl.constexpr, row, T: tl.constexpr):
    """A number of the table's row."""
    value = row * 0 + T.rows[0][column]
    length: tl.constexpr = T.length
    for other in tl.static_range(1, length):
        value = tl.where(row == other, T.rows[other][column], value)
    return value


@triton.jit
def _owner(column: tl.constexpr, position, T: tl.constexpr):
    """The row of the table that a matrix, or a row of taps, belongs to: the last that begins before or there."""
    row = position * 0
    length: tl.constexpr = T.length
    for other in tl.static_range(1, length):
        row += (position >= T.rows[other][column]).to(tl.int32)
    return row


@triton.jit
def _locate(rows, n_rows, channels, P: tl.constexpr):
    """Image of each row as an element offset, first line of its group, first column of its segment."""
    # Rows past the end repeat the last one, so that no address is formed outside the tensor.
    rows = tl.minimum(rows, n_rows - 1)
    segment = rows % P.segments
    group = (rows // P.segments) % P.groups
    image = rows // (P.segments * P.groups)
    # 64-bit before the first multiply: a tensor may hold more than 2**31 elements.
    return image.to(tl.int64) * channels * (P.height * P.width), group * P.rows, segment * P.block_n


@triton.jit
def _plane(channel, P: tl.constexpr):
    """Start of the channel's plane in an image, in elements."""
    return channel.to(tl.int64) * (P.height * P.width)


@triton.jit
def _branch(ptr, branch, n_planes, P: tl.constexpr):
    """Start of a branch's map, (B, C, H, W), among those of all branches.

    The compiler sees that it is a multiple of the plane, and loads wide.
    """
    return ptr + tl.cast(branch, tl.int64) * n_planes * (P.height * P.width)


@triton.jit
def _lead(channel, P: tl.constexpr):
    """Pixels between the last aligned address and the start of the channel's plane."""
    return (_plane(channel, P) % P.align).to(tl.int32)


@triton.jit
def _pixels(image, channel, line, column, pixels, lines: tl.constexpr, in_range, n_planes, P: tl.constexpr):
    """Offsets of [M, K] consecutive pixels that start at (line, column) of each row's plane, and which to load.

    With ``P.align > 1`` a plane is one group, and the offsets start at the aligned address before it: pixel 0 of
    the plane comes at position ``_lead``. The third result is then which of the loaded pixels are the plane's own.
    """
    plane = _plane(channel, P)
    if P.segmented:
        at = column[:, None] + pixels[None, :]
        inside = in_range[:, None] & (line >= 0)[:, None] & (line < P.height)[:, None] & (at >= 0) & (at < P.width)
        return (image + plane)[:, None] + (line * P.width)[:, None] + at, inside, inside
    if P.align > 1:
        # Written as a multiple of the alignment, which the compiler needs to see to load wide.
        at = (image + plane // P.align * P.align)[:, None] + pixels[None, :]
        readable = (
            in_range[:, None]
            & (pixels < lines * P.width + P.align - 1)[None, :]
            & (at < tl.cast(n_planes, tl.int64) * (P.height * P.width))
        )
        own = pixels - _lead(channel, P)
        return at, readable, readable & ((own >= 0) & (own < lines * P.width))[None, :]
    at = (line * P.width)[:, None] + pixels[None, :]
    inside = in_range[:, None] & (pixels < lines * P.width)[None, :] & (at >= 0) & (at < P.height * P.width)
    return (image + plane)[:, None] + at, inside, inside


@triton.jit
def _load(ptr, offsets, readable, own, P: tl.constexpr):
    values = tl.load(ptr + offsets, mask=readable, other=0)
    if P.align > 1:
        values = tl.where(own, values, tl.zeros_like(values))
    return values


@triton.jit
def _window_start(first_line, line_step, line, column, step, P: tl.constexpr):
    """Line and column at which window number ``step`` of each row starts."""
    line_of_step = first_line + (step // P.column_steps) * line_step
    # What `geometry.cut` knows and the compiler cannot see: it decides how wide the loads are.
    line_of_step = line_of_step // P.granule * P.granule
    return line + line_of_step, column + (step % P.column_steps) * P.block_k - P.left


@triton.jit
def toeplitz_kernel(
    weight_ptr,
    scale_ptr,
    toeplitz_ptr,
    channels,
    matrices,
    flip: tl.constexpr,
    P: tl.constexpr,
    T: tl.constexpr,
):
    """Write one Toeplitz matrix of one channel, [K, N].

    A matrix is the sum over the branch's parts of scale times kernel, so that it can also stand for the merged
    kernel of several branches.
    """
    channel, matrix = tl.program_id(0) // matrices, tl.program_id(0) % matrices
    branch = _owner(FIRST_MATRIX, matrix, T)
    step = matrix - _pick(FIRST_MATRIX, branch, T)
    block_k: tl.constexpr = P.block_k
    block_n: tl.constexpr = P.block_n
    k, n = tl.arange(0, block_k), tl.arange(0, block_n)
    pixels_k = k - _lead(channel, P)
    if P.segmented:
        k_line, k_column = pixels_k * 0, pixels_k + (step % P.column_steps) * P.block_k - P.left
        n_line, n_column = n * 0, n
        valid = (k >= 0)[:, None] & (n >= 0)[None, :]
    else:
        k_line, k_column = pixels_k // P.width, pixels_k % P.width
        n_line, n_column = n // P.width, n % P.width
        valid = (pixels_k < P.window_rows * P.width)[:, None] & (n < P.rows * P.width)[None, :]
        valid &= (pixels_k >= 0)[:, None]
    # Distances between window and group pixel, in map pixels.
    line = _pick(FIRST_LINE, branch, T) + (step // P.column_steps) * _pick(LINE_STEP, branch, T)
    dy, dx = k_line[:, None] - n_line[None, :] + line, k_column[:, None] - n_column[None, :]

    accumulator: tl.constexpr = tl.float64 if toeplitz_ptr.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((block_k, block_n), accumulator)
    for part in range(_pick(FIRST_PART, branch, T), _pick(LAST_PART, branch, T)):
        height, width = _pick(KERNEL_HEIGHT, part, T), _pick(KERNEL_WIDTH, part, T)
        dilation = _pick(DILATION, part, T)
        y, x = dy + dilation * (height // 2), dx + dilation * (width // 2)
        # Division by way of float32 is exact for numbers of this size, and ten times as fast.
        tap_y = tl.floor((y.to(tl.float32) + 0.5) * (1.0 / dilation)).to(tl.int32)
        tap_x = tl.floor((x.to(tl.float32) + 0.5) * (1.0 / dilation)).to(tl.int32)
        exists = valid & (tap_y >= 0) & (tap_y < height) & (tap_y * dilation == y)
        exists &= (tap_x >= 0) & (tap_x < width) & (tap_x * dilation == x)
        if flip:
            tap_y, tap_x = height - 1 - tap_y, width - 1 - tap_x
        taps = _pick(FIRST_TAP, part, T) * channels + channel * (height * width)
        values = tl.load(weight_ptr + taps + tap_y * width + tap_x, mask=exists, other=0).to(accumulator)
        if scale_ptr is not None:
            row = _pick(FIRST_SCALE, branch, T) + part
            values *= tl.load(scale_ptr + row * channels + channel).to(accumulator)
        total += values
    at = toeplitz_ptr + tl.program_id(0).to(tl.int64) * (block_k * block_n) + k[:, None] * block_n + n[None, :]
    tl.store(at, total.to(toeplitz_ptr.dtype.element_ty))


@triton.jit
def _accumulate(
    acc,
    source_ptr,
    center,
    toeplitz_ptr,
    branch,
    image,
    channel,
    line,
    column,
    in_range,
    n_planes,
    has_center: tl.constexpr,
    precision: tl.constexpr,
    stages: tl.constexpr,
    P: tl.constexpr,
    T: tl.constexpr,
):
    """Add the sum over the branch's windows of (window - center) @ Toeplitz."""
    block_k: tl.constexpr = P.block_k
    block_n: tl.constexpr = P.block_n
    k, n = tl.arange(0, block_k), tl.arange(0, block_n)
    matrix = k[:, None] * block_n + n[None, :]
    first_line, line_step = _pick(FIRST_LINE, branch, T), _pick(LINE_STEP, branch, T)
    toeplitz_ptr += _pick(FIRST_MATRIX, branch, T) * (block_k * block_n)
    for step in tl.range(0, _pick(STEPS, branch, T), num_stages=stages):
        at_line, at_column = _window_start(first_line, line_step, line, column, step, P)
        offsets, readable, own = _pixels(image, channel, at_line, at_column, k, P.window_rows, in_range, n_planes, P)
        x = _load(source_ptr, offsets, readable, own, P)
        if has_center:
            # Pixels outside the map are padding, zero after the centering.
            x = tl.where(own, x.to(acc.dtype) - center, 0).to(source_ptr.dtype.element_ty)
        toeplitz = tl.load(toeplitz_ptr + step * (block_k * block_n) + matrix)
        acc = tl.dot(x, toeplitz, acc, input_precision=precision, out_dtype=acc.dtype)
    return acc


@triton.jit
def _group_pixels(image, channel, line, column, in_range, P: tl.constexpr):
    """Offsets of each row's own group, [M, N], and which of them exist."""
    block_n: tl.constexpr = P.block_n
    n = tl.arange(0, block_n)
    if P.segmented:
        at = column[:, None] + n[None, :]
        inside = in_range[:, None] & (at < P.width)
        at += (line * P.width)[:, None]
    else:
        at = (line * P.width)[:, None] + n[None, :]
        inside = in_range[:, None] & (n < P.rows * P.width)[None, :] & (at < P.height * P.width)
    return (image + _plane(channel, P))[:, None] + at, inside


@triton.jit
def _store_moments(acc, inside, sum_ptr, square_ptr, at, in_range):
    """Each row's sum, and its squared deviations from the row's own mean: sums of squares would cancel."""
    values = tl.where(inside, acc, 0)
    total = tl.sum(values, axis=1)
    count = tl.sum(inside.to(acc.dtype), axis=1)
    deviation = tl.where(inside, values - (total / tl.maximum(count, 1))[:, None], 0)
    tl.store(sum_ptr + at, total, mask=in_range)
    tl.store(square_ptr + at, tl.sum(deviation * deviation, axis=1), mask=in_range)


# Numbers that follow the batch are not specialized on, so that a last, smaller batch compiles nothing new.
@triton.jit(do_not_specialize=["n_rows", "n_planes"])
def conv_kernel(
    x_ptr,
    toeplitz_ptr,
    bias_ptr,
    y_ptr,
    sum_ptr,
    square_ptr,
    n_rows,
    channels,
    n_planes,
    branches,
    matrices,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    stages: tl.constexpr,
    P: tl.constexpr,
    T: tl.constexpr,
):
    """Convolve ``block_m`` groups of one channel with the kernels of one branch, into the branch's own map.

    Where there is room for them, each row's sum and squared deviations are kept as well, before rounding, for the
    norm or the pooling that follows.
    """
    branch = tl.program_id(0) % branches
    tiles = tl.cdiv(n_rows, block_m)
    tile = tl.program_id(0) // branches
    channel = tile // tiles
    rows = (tile % tiles) * block_m + tl.arange(0, block_m)
    in_range = rows < n_rows
    image, line, column = _locate(rows, n_rows, channels, P)
    block_k: tl.constexpr = P.block_k
    block_n: tl.constexpr = P.block_n
    accumulator: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((block_m, block_n), accumulator)
    toeplitz_ptr += channel.to(tl.int64) * matrices * (block_k * block_n)
    acc = _accumulate(
        acc,
        x_ptr,
        0,
        toeplitz_ptr,
        branch,
        image,
        channel,
        line,
        column,
        in_range,
        n_planes,
        False,
        precision,
        stages,
        P,
        T,
    )
    if bias_ptr is not None:
        acc += tl.load(bias_ptr + channel).to(accumulator)
    offsets, inside = _group_pixels(image, channel, line, column, in_range, P)
    if sum_ptr is not None:
        at = (branch.to(tl.int64) * channels + channel) * n_rows + rows
        _store_moments(acc, inside, sum_ptr, square_ptr, at, in_range)
    y_ptr = _branch(y_ptr, branch, n_planes, P)
    tl.store(y_ptr + offsets, acc.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows", "n_planes"])
def conv_transpose_kernel(
    grad_ptr,
    branch_ptr,
    center_ptr,
    residual_ptr,
    toeplitz_ptr,
    grad_x_ptr,
    n_rows,
    channels,
    n_planes,
    branches,
    matrices,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    stages: tl.constexpr,
    P: tl.constexpr,
    T: tl.constexpr,
):
    """Input gradient of a block's depthwise layer: residual + grad * merged + the sum of (branch - center) * branch's.

    Row 0 of the table is the merged kernel, rows 1 to ``branches`` are those of the branches; the Toeplitz
    matrices hold turned kernels with the norms' factors in them.
    """
    tiles = tl.cdiv(n_rows, block_m)
    channel = tl.program_id(0) // tiles
    rows = (tl.program_id(0) % tiles) * block_m + tl.arange(0, block_m)
    in_range = rows < n_rows
    image, line, column = _locate(rows, n_rows, channels, P)
    block_k: tl.constexpr = P.block_k
    block_n: tl.constexpr = P.block_n
    accumulator: tl.constexpr = tl.float64 if grad_x_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((block_m, block_n), accumulator)
    toeplitz_ptr += channel.to(tl.int64) * matrices * (block_k * block_n)
    acc = _accumulate(
        acc,
        grad_ptr,
        0,
        toeplitz_ptr,
        0,
        image,
        channel,
        line,
        column,
        in_range,
        n_planes,
        False,
        precision,
        stages,
        P,
        T,
    )
    if branch_ptr is not None:
        for branch in range(branches):
            acc = _accumulate(
                acc,
                _branch(branch_ptr, branch, n_planes, P),
                tl.load(center_ptr + branch * channels + channel),
                toeplitz_ptr,
                branch + 1,
                image,
                channel,
                line,
                column,
                in_range,
                n_planes,
                True,
                precision,
                stages,
                P,
                T,
            )
    offsets, inside = _group_pixels(image, channel, line, column, in_range, P)
    acc += tl.load(residual_ptr + offsets, mask=inside, other=0).to(accumulator)
    tl.store(grad_x_ptr + offsets, acc.to(grad_x_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows", "n_planes", "tiles_per_split"])
def correlate_kernel(
    x_ptr,
    grad_ptr,
    branch_ptr,
    affine_ptr,
    partial_ptr,
    n_rows,
    channels,
    n_planes,
    branches,
    matrices,
    tiles_per_split,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    stages: tl.constexpr,
    P: tl.constexpr,
    T: tl.constexpr,
):
    """First pass of the weight gradient: window^T @ grad over one split of the rows, [K, N].

    With ``affine`` the gradient of a branch's output is formed on the
    way, factor * grad + slope * (branch - center), from ``affine`` of shape (3, branches, channels).
    Splits are written side by side, never added atomically, so that equal inputs give equal gradients.
    """
    channel, matrix, split = tl.program_id(0) // matrices, tl.program_id(0) % matrices, tl.program_id(1)
    branch = _owner(FIRST_MATRIX, matrix, T)
    step = matrix - _pick(FIRST_MATRIX, branch, T)
    first_line, line_step = _pick(FIRST_LINE, branch, T), _pick(LINE_STEP, branch, T)
    block_k: tl.constexpr = P.block_k
    block_n: tl.constexpr = P.block_n
    k, n = tl.arange(0, block_k), tl.arange(0, block_n)
    accumulator: tl.constexpr = partial_ptr.dtype.element_ty
    if affine_ptr is not None:
        at = branch * channels + channel
        factor = tl.load(affine_ptr + at)
        slope = tl.load(affine_ptr + branches * channels + at)
        center = tl.load(affine_ptr + 2 * branches * channels + at)
        branch_ptr = _branch(branch_ptr, branch, n_planes, P)
    acc = tl.zeros((block_k, block_n), accumulator)
    first = split * tiles_per_split
    for tile in tl.range(first, tl.minimum(first + tiles_per_split, tl.cdiv(n_rows, block_m)), num_stages=stages):
        rows = tile * block_m + tl.arange(0, block_m)
        in_range = rows < n_rows
        image, line, column = _locate(rows, n_rows, channels, P)
        at_line, at_column = _window_start(first_line, line_step, line, column, step, P)
        offsets, readable, own = _pixels(image, channel, at_line, at_column, k, P.window_rows, in_range, n_planes, P)
        x = _load(x_ptr, offsets, readable, own, P)
        offsets, readable, own = _pixels(image, channel, line, column, n, P.rows, in_range, n_planes, P)
        grad = _load(grad_ptr, offsets, readable, own, P)
        if affine_ptr is not None:
            y = _load(branch_ptr, offsets, readable, own, P).to(accumulator) - center
            grad = tl.where(own, factor * grad.to(accumulator) + slope * y, 0).to(x.dtype)
        acc = tl.dot(tl.trans(x), grad, acc, input_precision=precision, out_dtype=accumulator)
    at = ((split.to(tl.int64) * channels + channel) * matrices + matrix) * (block_k * block_n)
    tl.store(partial_ptr + at + k[:, None] * block_n + n[None, :], acc)


@triton.jit
def fold_kernel(
    partial_ptr,
    grad_weight_ptr,
    channels,
    rows,
    matrices,
    splits,
    block_x: tl.constexpr,
    P: tl.constexpr,
    T: tl.constexpr,
):
    """Second pass of the weight gradient: sum the splits along the diagonals, for one row of taps of one channel."""
    channel, row = tl.program_id(0) // rows, tl.program_id(0) % rows
    branch = _owner(FIRST_ROW, row, T)
    tap_y = row - _pick(FIRST_ROW, branch, T)
    height, width = _pick(KERNEL_HEIGHT, branch, T), _pick(KERNEL_WIDTH, branch, T)
    dilation = _pick(DILATION, branch, T)
    first_line, line_step = _pick(FIRST_LINE, branch, T), _pick(LINE_STEP, branch, T)
    steps = _pick(STEPS, branch, T)
    block_k: tl.constexpr = P.block_k
    block_n: tl.constexpr = P.block_n
    lead = _lead(channel, P)
    tap_x, n = tl.arange(0, block_x), tl.arange(0, block_n)
    if P.segmented:
        n_line, n_column = n * 0, n
    else:
        n_line, n_column = n // P.width, n % P.width
    # The input pixel that tap (y, x) joins to group pixel n, as a position in the sequence of windows.
    line = n_line + (tap_y - height // 2) * dilation - first_line
    column = n_column[None, :] + ((tap_x - width // 2) * dilation)[:, None]
    step_of_line = line // line_step
    line_in_window = line % line_step
    exists = (line >= 0) & (step_of_line * P.column_steps < steps) & (line_in_window < P.window_rows)
    exists = exists[None, :] & (tap_x < width)[:, None]
    if P.segmented:
        column += P.left
        step = step_of_line[None, :] * P.column_steps + column // P.block_k
        k = column % P.block_k
        exists &= (column >= 0) & (column < P.block_k * P.column_steps)
        position = k * block_n + n[None, :]
    else:
        step = step_of_line[None, :]
        k = lead + line_in_window[None, :] * P.width + column
        exists &= (n < P.rows * P.width)[None, :] & (column >= 0) & (column < P.width)
        position = k * block_n + (n + lead)[None, :]
    position += step * (block_k * block_n)

    accumulator: tl.constexpr = partial_ptr.dtype.element_ty
    acc = tl.zeros((block_x, block_n), accumulator)
    size = tl.cast(block_k * block_n, tl.int64) * matrices
    partial_ptr += size * channel + _pick(FIRST_MATRIX, branch, T) * (block_k * block_n)
    for _ in range(splits):
        acc += tl.load(partial_ptr + position, mask=exists, other=0)
        partial_ptr += size * channels
    taps = _pick(FIRST_TAP, branch, T) * channels + (channel * height + tap_y) * width + tap_x
    tl.store(
        grad_weight_ptr + taps,
        tl.sum(acc, axis=1).to(grad_weight_ptr.dtype.element_ty),
        mask=tap_x < width,
    )
