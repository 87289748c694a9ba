"""Triton kernels of the depthwise convolution as a grouped Toeplitz GEMM.

A plane of one channel is cut into groups of consecutive output pixels. All (image, group) pairs of the
channel are the rows of a matrix product: a row holds a window of input pixels, and the Toeplitz matrix of the
channel spreads the kernel taps so that the sum over windows of window @ Toeplitz is the group.
``geometry.py`` says how planes are cut; its numbers are compile-time constants here (``G``), which is what
lets the loads vectorise.

In shapes, M is rows of the product, K window pixels, N group pixels.
"""

# The types of kernel arguments are Triton's, not Python's.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _locate(rows, n_rows, channels, G: tl.constexpr):
    """Image of each row as an element offset, first line of its group, first column of its segment."""
    # Rows past the end repeat the last one, so that no address is formed outside the tensor.
    rows = tl.minimum(rows, n_rows - 1)
    segment = rows % G.segments
    group = (rows // G.segments) % G.groups
    image = rows // (G.segments * G.groups)
    # 64-bit before the first multiply: a tensor may hold more than 2**31 elements.
    return image.to(tl.int64) * channels * (G.height * G.width), group * G.rows, segment * G.block_n


@triton.jit
def _plane(channel, G: tl.constexpr):
    """Start of the channel's plane in an image, in elements."""
    return channel.to(tl.int64) * (G.height * G.width)


@triton.jit
def _lead(channel, G: tl.constexpr):
    """Pixels between the last aligned address and the start of the channel's plane."""
    return (_plane(channel, G) % G.align).to(tl.int32)


@triton.jit
def _load_pixels(ptr, image, channel, line, column, pixels, lines: tl.constexpr, in_range, n_elements, G: tl.constexpr):
    """Load [M, K] consecutive pixels that start at (line, column) of each row's plane; zero outside the map.

    With ``G.align > 1`` a plane is one group, and the load starts at the aligned address before it: pixel 0
    of the plane comes at position ``_lead``.
    """
    plane = _plane(channel, G)
    if G.segmented:
        at = column[:, None] + pixels[None, :]
        inside = in_range[:, None] & (line >= 0)[:, None] & (line < G.height)[:, None] & (at >= 0) & (at < G.width)
        return tl.load(ptr + (image + plane)[:, None] + (line * G.width)[:, None] + at, mask=inside, other=0)
    if G.align > 1:
        # Written as a multiple of the alignment, which the compiler needs to see to load wide.
        at = (image + plane // G.align * G.align)[:, None] + pixels[None, :]
        readable = in_range[:, None] & (pixels < lines * G.width + G.align - 1)[None, :] & (at < n_elements)
        values = tl.load(ptr + at, mask=readable, other=0)
        own = pixels - _lead(channel, G)
        return tl.where(((own >= 0) & (own < lines * G.width))[None, :], values, tl.zeros_like(values))
    at = (line * G.width)[:, None] + pixels[None, :]
    inside = in_range[:, None] & (pixels < lines * G.width)[None, :] & (at >= 0) & (at < G.height * G.width)
    return tl.load(ptr + (image + plane)[:, None] + at, mask=inside, other=0)


@triton.jit
def _window(ptr, image, channel, line, column, step, pixels, in_range, n_elements, G: tl.constexpr):
    """Input window number ``step`` of each row, [M, K]."""
    line += G.first_line + (step // G.column_steps) * G.line_step
    column += (step % G.column_steps) * G.block_k - G.left
    return _load_pixels(ptr, image, channel, line, column, pixels, G.window_rows, in_range, n_elements, G)


@triton.jit
def _toeplitz(weight_ptr, channel, step, pixels_k, pixels_n, flip: tl.constexpr, G: tl.constexpr):
    """Kernel tap that joins window pixel k to group pixel n, [K, N]; zero where there is none."""
    pixels_k -= _lead(channel, G)
    dy = G.first_line + (step // G.column_steps) * G.line_step
    dx = 0
    if G.segmented:
        dx = (step % G.column_steps) * G.block_k - G.left
        k_line, k_column = pixels_k * 0, pixels_k
        n_line, n_column = pixels_n * 0, pixels_n
    else:
        k_line, k_column = pixels_k // G.width, pixels_k % G.width
        n_line, n_column = pixels_n // G.width, pixels_n % G.width
    y = dy + k_line[:, None] - n_line[None, :] + G.dilation * (G.kernel_height // 2)
    x = dx + k_column[:, None] - n_column[None, :] + G.dilation * (G.kernel_width // 2)
    tap_y, tap_x = y // G.dilation, x // G.dilation
    # Signs are asked of y and x: integer division rounds towards zero.
    exists = (y >= 0) & (tap_y < G.kernel_height) & (y % G.dilation == 0)
    exists &= (x >= 0) & (tap_x < G.kernel_width) & (x % G.dilation == 0)
    exists &= (pixels_k >= 0)[:, None]
    if not G.segmented:
        exists &= (pixels_k < G.window_rows * G.width)[:, None] & (pixels_n < G.rows * G.width)[None, :]
    if flip:
        tap_y, tap_x = G.kernel_height - 1 - tap_y, G.kernel_width - 1 - tap_x
    tap = (channel * G.kernel_height + tap_y) * G.kernel_width + tap_x
    return tl.load(weight_ptr + tap, mask=exists, other=0)


@triton.jit
def toeplitz_kernel(weight_ptr, toeplitz_ptr, flip: tl.constexpr, G: tl.constexpr):
    """Write the Toeplitz matrix of one (channel, step), [K, N]."""
    channel, step = tl.program_id(0) // G.steps, tl.program_id(0) % G.steps
    k, n = tl.arange(0, G.block_k), tl.arange(0, G.block_n)
    values = _toeplitz(weight_ptr, channel, step, k, n, flip, G)
    matrix = (channel.to(tl.int64) * G.steps + step) * (G.block_k * G.block_n)
    at = toeplitz_ptr + matrix + k[:, None] * G.block_n + n[None, :]
    tl.store(at, values.to(toeplitz_ptr.dtype.element_ty))


# Numbers that follow the batch are not specialised on, so that a last, smaller batch compiles nothing new.
@triton.jit(do_not_specialize=["n_rows"])
def conv_kernel(
    x_ptr,
    toeplitz_ptr,
    bias_ptr,
    y_ptr,
    n_rows,
    channels,
    n_elements,
    has_bias: tl.constexpr,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    stages: tl.constexpr,
    G: tl.constexpr,
):
    """Convolve ``block_m`` groups of one channel: the sum over steps of window @ Toeplitz, plus bias."""
    tiles = tl.cdiv(n_rows, block_m)
    channel = tl.program_id(0) // tiles
    rows = (tl.program_id(0) % tiles) * block_m + tl.arange(0, block_m)
    in_range = rows < n_rows
    image, line, column = _locate(rows, n_rows, channels, G)
    k, n = tl.arange(0, G.block_k), tl.arange(0, G.block_n)
    toeplitz_ptr += channel.to(tl.int64) * (G.steps * G.block_k * G.block_n)
    matrix = k[:, None] * G.block_n + n[None, :]

    accumulator: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((block_m, G.block_n), accumulator)
    for step in tl.range(G.steps, num_stages=stages):
        x = _window(x_ptr, image, channel, line, column, step, k, in_range, n_elements, G)
        toeplitz = tl.load(toeplitz_ptr + step * (G.block_k * G.block_n) + matrix)
        acc = tl.dot(x, toeplitz, acc, input_precision=precision, out_dtype=accumulator)
    if has_bias:
        acc += tl.load(bias_ptr + channel).to(accumulator)

    if G.segmented:
        at = column[:, None] + n[None, :]
        inside = in_range[:, None] & (at < G.width)
        at += (line * G.width)[:, None]
    else:
        at = (line * G.width)[:, None] + n[None, :]
        inside = in_range[:, None] & (n < G.rows * G.width)[None, :] & (at < G.height * G.width)
    tl.store(y_ptr + (image + _plane(channel, G))[:, None] + at, acc.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows", "tiles_per_split"])
def correlate_kernel(
    x_ptr,
    grad_ptr,
    partial_ptr,
    n_rows,
    channels,
    n_elements,
    tiles_per_split,
    precision: tl.constexpr,
    block_m: tl.constexpr,
    stages: tl.constexpr,
    G: tl.constexpr,
):
    """First pass of the weight gradient: window^T @ grad over one split of the rows, [K, N].

    Splits are written side by side, never added atomically, so that equal inputs give equal gradients.
    """
    channel, step, split = tl.program_id(0) // G.steps, tl.program_id(0) % G.steps, tl.program_id(1)
    k, n = tl.arange(0, G.block_k), tl.arange(0, G.block_n)
    accumulator: tl.constexpr = partial_ptr.dtype.element_ty
    acc = tl.zeros((G.block_k, G.block_n), accumulator)
    first = split * tiles_per_split
    for tile in tl.range(first, tl.minimum(first + tiles_per_split, tl.cdiv(n_rows, block_m)), num_stages=stages):
        rows = tile * block_m + tl.arange(0, block_m)
        in_range = rows < n_rows
        image, line, column = _locate(rows, n_rows, channels, G)
        x = _window(x_ptr, image, channel, line, column, step, k, in_range, n_elements, G)
        grad = _load_pixels(grad_ptr, image, channel, line, column, n, G.rows, in_range, n_elements, G)
        acc = tl.dot(tl.trans(x), grad, acc, input_precision=precision, out_dtype=accumulator)
    matrix = ((split.to(tl.int64) * channels + channel) * G.steps + step) * (G.block_k * G.block_n)
    tl.store(partial_ptr + matrix + k[:, None] * G.block_n + n[None, :], acc)


@triton.jit
def fold_kernel(partial_ptr, grad_weight_ptr, channels, splits, block_x: tl.constexpr, G: tl.constexpr):
    """Second pass of the weight gradient: sum the splits along the diagonals of one row of taps."""
    channel, tap_y = tl.program_id(0) // G.kernel_height, tl.program_id(0) % G.kernel_height
    lead = _lead(channel, G)
    tap_x, n = tl.arange(0, block_x), tl.arange(0, G.block_n)
    if G.segmented:
        n_line, n_column = n * 0, n
    else:
        n_line, n_column = n // G.width, n % G.width
    # The input pixel that tap (y, x) joins to group pixel n, as a position in the sequence of windows.
    line = n_line + (tap_y - G.kernel_height // 2) * G.dilation - G.first_line
    column = n_column[None, :] + ((tap_x - G.kernel_width // 2) * G.dilation)[:, None]
    line_step = line // G.line_step
    line_in_window = line % G.line_step
    exists = (line >= 0) & (line_step < G.line_steps) & (line_in_window < G.window_rows)
    exists = exists[None, :] & (tap_x < G.kernel_width)[:, None]
    if G.segmented:
        column += G.left
        step = line_step[None, :] * G.column_steps + column // G.block_k
        k = column % G.block_k
        exists &= (column >= 0) & (column < G.block_k * G.column_steps)
        position = k * G.block_n + n[None, :]
    else:
        step = line_step[None, :]
        k = lead + line_in_window[None, :] * G.width + column
        exists &= (n < G.rows * G.width)[None, :] & (column >= 0) & (column < G.width)
        position = k * G.block_n + (n + lead)[None, :]
    position += step * (G.block_k * G.block_n)

    accumulator: tl.constexpr = partial_ptr.dtype.element_ty
    acc = tl.zeros((block_x, G.block_n), accumulator)
    matrices = tl.cast(G.steps * G.block_k * G.block_n, tl.int64)
    partial_ptr += matrices * channel
    for _ in range(splits):
        acc += tl.load(partial_ptr + position, mask=exists, other=0)
        partial_ptr += matrices * channels
    taps = (channel * G.kernel_height + tap_y) * G.kernel_width + tap_x
    tl.store(
        grad_weight_ptr + taps,
        tl.sum(acc, axis=1).to(grad_weight_ptr.dtype.element_ty),
        mask=tap_x < G.kernel_width,
    )
