"""Triton kernels of the block around its convolutions and products: each passes over its maps once.

Maps of the depthwise half are NCHW, (B, C, P) with P = H * W pixels; maps of the pointwise half are NHWC,
(B, P, C). Kernels that read one and write the other change the layout on the way. Sums over pixels are taken in
two passes, partial sums in fixed order and then the sum of those, so that equal inputs give equal bits.

``P`` comes as ``units * unit``, with ``unit`` a compile-time constant: its divisibility by 16 decides how wide the
loads are, its value would compile a kernel for every size of map. The formulas are derived in docs/kernels.md.
"""

# The types of kernel arguments are Triton's, not Python's.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _accumulator(ptr):
    """float64 for maps of float64, else float32."""
    return tl.float64 if ptr.dtype.element_ty == tl.float64 else tl.float32


@triton.jit
def _normal_cdf(h, is_half: tl.constexpr):
    """Distribution function of the normal distribution.

    Values that come from a half-precision map, and go into one, take the power of two of a polynomial: its relative
    error is below 1e-5 from -3 upwards and 3e-3 at -6, where the function is 1e-9. The exact one would take longer
    than reading the map.
    """
    if is_half:
        a = tl.minimum(tl.abs(h), 6.0)
        p = 3.138679542029557e-05 * a - 0.0007378017688552311
        p = p * a + 0.007904089496469018
        p = p * a - 0.05299210676123309
        p = p * a - 0.45920898814236133
        p = p * a - 1.1510293433886296
        tail = tl.exp2(p * a - 1.0000075167069258)
        return tl.where(h > 0, 1 - tail, tail)
    return 0.5 + 0.5 * tl.erf(h * 0.7071067811865476)


@triton.jit
def _gelu(h, is_half: tl.constexpr):
    return h * _normal_cdf(h, is_half)


@triton.jit
def _gelu_and_slope(h, is_half: tl.constexpr):
    cdf = _normal_cdf(h, is_half)
    return h * cdf, cdf + h * 0.3989422804014327 * tl.exp2(-0.7213475204444817 * h * h)


@triton.jit
def _tile(P, C: tl.constexpr, chunk, block_p: tl.constexpr, block_c: tl.constexpr):
    """Pixels and channels of this program's tile, [block_p] and [block_c], and which pairs of them exist."""
    p = chunk * block_p + tl.arange(0, block_p)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    return p, c, (p < P)[:, None] & (c < C)[None, :]


@triton.jit
def _nchw(image, p, c, P, C: tl.constexpr):
    return tl.cast(image, tl.int64) * C * P + c[None, :] * P + p[:, None]


@triton.jit
def _nhwc(image, p, c, P, C: tl.constexpr):
    return tl.cast(image, tl.int64) * C * P + p[:, None] * C + c[None, :]


@triton.jit
def _place(image, p, c, P, C: tl.constexpr, is_nchw: tl.constexpr):
    """Offsets of [pixels, channels] of an image in its layout."""
    if is_nchw:
        return _nchw(image, p, c, P, C)
    return _nhwc(image, p, c, P, C)


@triton.jit
def _branch(ptr, branch, images, P, C: tl.constexpr):
    """Start of a branch's map among those of all branches; the compiler sees that it is a multiple of C * unit."""
    return ptr + tl.cast(branch, tl.int64) * images * P * C


@triton.jit
def _vector(ptr, c, C: tl.constexpr, dtype: tl.constexpr):
    return tl.load(ptr + c, mask=c < C, other=0).to(dtype)


@triton.jit
def _row(ptr, image, c, C: tl.constexpr, dtype: tl.constexpr):
    return _vector(ptr + image * C, c, C, dtype)


@triton.jit
def _store_moments(values, inside, sum_ptr, square_ptr, at, c, C: tl.constexpr):
    """Each channel's sum over the tile, and its squared deviations from the tile's own mean."""
    total = tl.sum(values, axis=0)
    count = tl.sum(inside.to(values.dtype), axis=0)
    deviation = tl.where(inside, values - (total / tl.maximum(count, 1))[None, :], 0)
    tl.store(sum_ptr + at, total, mask=c < C)
    tl.store(square_ptr + at, tl.sum(deviation * deviation, axis=0), mask=c < C)


@triton.jit
def _group_pixels(row, inside, per_run, run_length, group_pixels, dtype: tl.constexpr):
    """Pixels behind each partial moment: the last one of a run may have fewer."""
    pixels = tl.minimum(group_pixels, run_length - (row % per_run) * group_pixels)
    return tl.where(inside, pixels, 0).to(dtype)


@triton.jit(do_not_specialize=["images", "per_image", "per_run", "run_length", "group_pixels"])
def moments_kernel(
    sum_ptr,
    square_ptr,
    stats_ptr,
    pooled_ptr,
    images,
    per_image,
    per_run,
    run_length,
    group_pixels,
    channels,
    branches,
    eps: tl.constexpr,
    block_i: tl.constexpr,
    block_g: tl.constexpr,
):
    """From partial moments, (branches, C, B * groups), a channel's statistics (3, branches, C) and each image's mean.

    The statistics are mean, 1 / sqrt(variance + eps) and unbiased variance. The means of images, (B, C), are those
    of the first branch.
    """
    channel, branch = tl.program_id(0), tl.program_id(1)
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    start = (branch.to(tl.int64) * channels + channel) * images * per_image
    group = tl.arange(0, block_g)
    total, count = tl.zeros((block_i,), dtype), tl.zeros((block_i,), dtype)
    for first in range(0, images, block_i):
        image = first + tl.arange(0, block_i)
        row = image[:, None] * per_image + group[None, :]
        inside = (image < images)[:, None] & (group < per_image)[None, :]
        sums = tl.sum(tl.load(sum_ptr + start + row, mask=inside, other=0), axis=1)
        pixels = tl.sum(_group_pixels(row, inside, per_run, run_length, group_pixels, dtype), axis=1)
        total += sums
        count += pixels
        if pooled_ptr is not None:
            tl.store(pooled_ptr + image * channels + channel, sums / tl.maximum(pixels, 1), mask=image < images)
    if stats_ptr is not None:
        n = tl.sum(count, axis=0)
        mean = tl.sum(total, axis=0) / n
        square = tl.zeros((block_i,), dtype)
        for first in range(0, images, block_i):
            image = first + tl.arange(0, block_i)
            row = image[:, None] * per_image + group[None, :]
            inside = (image < images)[:, None] & (group < per_image)[None, :]
            pixels = _group_pixels(row, inside, per_run, run_length, group_pixels, dtype)
            deviation = tl.load(sum_ptr + start + row, mask=inside, other=0) / tl.maximum(pixels, 1) - mean
            within = tl.load(square_ptr + start + row, mask=inside, other=0)
            square += tl.sum(within + pixels * deviation * deviation, axis=1)
        squares = tl.sum(square, axis=0)
        at = branch * channels + channel
        size = branches * channels
        tl.store(stats_ptr + at, mean)
        tl.store(stats_ptr + size + at, 1 / tl.sqrt(squares / n + eps))
        tl.store(stats_ptr + 2 * size + at, squares / (n - 1))


@triton.jit(do_not_specialize=["units", "images", "rows"])
def combine_kernel(
    branch_ptr,
    stats_ptr,
    gamma_ptr,
    beta_ptr,
    y_ptr,
    sum_ptr,
    square_ptr,
    units,
    images,
    rows,
    chunks,
    branches,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Sum of the normalized branches, (branches, B, C, P) -> (B, C, P), and its partial moments."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    p, c, inside = _tile(P, C, chunk, block_p, block_c)
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    at = _nchw(image, p, c, P, C)
    acc = tl.zeros((block_p, block_c), dtype)
    for branch in range(branches):
        row = branch * C
        mean = _vector(stats_ptr + row, c, C, dtype)
        scale = _vector(stats_ptr + (branches + branch) * C, c, C, dtype) * _vector(gamma_ptr + row, c, C, dtype)
        y = tl.load(_branch(branch_ptr, branch, images, P, C) + at, mask=inside, other=0).to(dtype)
        acc += (y - mean[None, :]) * scale[None, :] + _vector(beta_ptr + row, c, C, dtype)[None, :]
    acc = tl.where(inside, acc, 0)
    _store_moments(acc, inside, sum_ptr, square_ptr, c * rows + tl.program_id(0), c, C)
    tl.store(y_ptr + at, acc.to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["units"])
def scale_kernel(
    y_ptr,
    stats_ptr,
    gamma_ptr,
    beta_ptr,
    gate_ptr,
    u_ptr,
    units,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Norm and SE's gate together, NCHW -> NHWC."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    p, c, inside = _tile(P, C, chunk, block_p, block_c)
    dtype: tl.constexpr = gate_ptr.dtype.element_ty
    u = tl.load(y_ptr + _nchw(image, p, c, P, C), mask=inside, other=0).to(dtype)
    if stats_ptr is not None:
        scale = _vector(gamma_ptr, c, C, dtype) * _vector(stats_ptr + C, c, C, dtype)
        u = (u - _vector(stats_ptr, c, C, dtype)[None, :]) * scale[None, :] + _vector(beta_ptr, c, C, dtype)[None, :]
    u *= _row(gate_ptr, image, c, C, dtype)[None, :]
    tl.store(u_ptr + _nhwc(image, p, c, P, C), u.to(u_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["units"])
def gate_sums_kernel(
    grad_ptr,
    y_ptr,
    stats_ptr,
    sum_ptr,
    units,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    tiles: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Sums over pixels of grad * normalized and of grad, (2, B * chunks, C); grad is NHWC, y NCHW."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    dot, plain = tl.zeros((block_p, block_c), dtype), tl.zeros((block_p, block_c), dtype)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    mean, rstd = _vector(stats_ptr, c, C, dtype), _vector(stats_ptr + C, c, C, dtype)
    for tile in range(tiles):
        p, c, inside = _tile(P, C, chunk * tiles + tile, block_p, block_c)
        grad = tl.load(grad_ptr + _nhwc(image, p, c, P, C), mask=inside, other=0).to(dtype)
        y = tl.load(y_ptr + _nchw(image, p, c, P, C), mask=inside, other=0).to(dtype)
        dot += grad * (y - mean[None, :])
        plain += grad
    at = tl.program_id(0) * C + c
    tl.store(sum_ptr + at, tl.sum(dot, axis=0) * rstd, mask=c < C)
    tl.store(sum_ptr + tl.num_programs(0) * C + at, tl.sum(plain, axis=0), mask=c < C)


@triton.jit(do_not_specialize=["units", "rows"])
def scale_backward_kernel(
    grad_ptr,
    y_ptr,
    stats_ptr,
    gamma_ptr,
    gate_ptr,
    grad_pooled_ptr,
    grad_norm_ptr,
    branch_ptr,
    branch_stats_ptr,
    grad_y_ptr,
    sum_ptr,
    units,
    rows,
    chunks,
    branches,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Gradient through gate and norm, NHWC -> NCHW, and its sums with the centered branches, (branches, C, rows).

    ``grad_norm`` holds the gradients of the norm's weight and bias, (2, C).
    """
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    images = tl.num_programs(0) // chunks
    p, c, inside = _tile(P, C, chunk, block_p, block_c)
    dtype: tl.constexpr = gate_ptr.dtype.element_ty
    rstd = _vector(stats_ptr + C, c, C, dtype)
    scale = _vector(gamma_ptr, c, C, dtype) * rstd
    pixels = P.to(dtype)
    count = images.to(dtype) * pixels
    offset = _row(grad_pooled_ptr, image, c, C, dtype) / pixels - _vector(grad_norm_ptr + C, c, C, dtype) / count
    slope = rstd * _vector(grad_norm_ptr, c, C, dtype) / count
    grad = tl.load(grad_ptr + _nhwc(image, p, c, P, C), mask=inside, other=0).to(dtype)
    at = _nchw(image, p, c, P, C)
    y = tl.load(y_ptr + at, mask=inside, other=0).to(dtype) - _vector(stats_ptr, c, C, dtype)[None, :]
    grad = grad * _row(gate_ptr, image, c, C, dtype)[None, :] + offset[None, :] - y * slope[None, :]
    grad = tl.where(inside, grad * scale[None, :], 0).to(grad_y_ptr.dtype.element_ty)
    tl.store(grad_y_ptr + at, grad, mask=inside)
    grad = grad.to(dtype)
    if branch_ptr is not None:
        for branch in range(branches):
            mean = _vector(branch_stats_ptr + branch * C, c, C, dtype)
            y = tl.load(_branch(branch_ptr, branch, images, P, C) + at, mask=inside, other=0).to(dtype)
            dot = tl.sum(grad * (y - mean[None, :]), axis=0)
            tl.store(sum_ptr + (branch * C + c) * rows + tl.program_id(0), dot, mask=c < C)


@triton.jit(do_not_specialize=["rows", "count"])
def branch_grad_kernel(
    sum_ptr,
    stats_ptr,
    gamma_ptr,
    affine_ptr,
    grad_norms_ptr,
    rows,
    count,
    channels,
    branches,
    block_r: tl.constexpr,
):
    """Gradients of the branch norms' weights and biases, (2, branches, C), and the map that a branch's gradient is.

    The gradient of branch i's convolution is factor * grad + slope * (branch - center): ``affine`` is
    (3, branches, C).
    """
    at = tl.program_id(1) * channels + tl.program_id(0)
    size = branches * channels
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    total = tl.zeros((block_r,), dtype)
    for first in range(0, rows, block_r):
        row = first + tl.arange(0, block_r)
        total += tl.load(sum_ptr + at.to(tl.int64) * rows + row, mask=row < rows, other=0)
    rstd = tl.load(stats_ptr + size + at)
    grad_gamma = rstd * tl.sum(total, axis=0)
    factor = tl.load(gamma_ptr + at).to(dtype) * rstd
    tl.store(grad_norms_ptr + at, grad_gamma.to(grad_norms_ptr.dtype.element_ty))
    # The outer norm takes out what a branch's bias adds.
    tl.store(grad_norms_ptr + size + at, tl.cast(0, grad_norms_ptr.dtype.element_ty))
    tl.store(affine_ptr + at, factor)
    tl.store(affine_ptr + size + at, -factor * rstd * grad_gamma / count.to(dtype))
    tl.store(affine_ptr + 2 * size + at, tl.load(stats_ptr + at))


@triton.jit(do_not_specialize=["units"])
def grn_sums_kernel(
    h_ptr,
    sum_ptr,
    units,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    tiles: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Sums over pixels of gelu(h) ** 2, (B * chunks, C)."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    square = tl.zeros((block_p, block_c), dtype)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    for tile in range(tiles):
        p, c, inside = _tile(P, C, chunk * tiles + tile, block_p, block_c)
        h = tl.load(h_ptr + _nhwc(image, p, c, P, C), mask=inside, other=0)
        g = _gelu(h.to(dtype), h_ptr.dtype.element_ty.primitive_bitwidth == 16)
        square += g * g
    tl.store(sum_ptr + tl.program_id(0) * C + c, tl.sum(square, axis=0), mask=c < C)


@triton.jit
def grn_scale_kernel(
    sum_ptr, gamma_ptr, norm_ptr, mean_ptr, scale_ptr, chunks, eps: tl.constexpr, C: tl.constexpr, block_c: tl.constexpr
):
    """From those sums, each image's norms and scales, (B, C), and its mean norm plus eps."""
    image = tl.program_id(0)
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    total = tl.zeros((block_c,), dtype)
    for first in range(0, C, block_c):
        c = first + tl.arange(0, block_c)
        square = tl.zeros((block_c,), dtype)
        for chunk in range(chunks):
            square += _row(sum_ptr, image * chunks + chunk, c, C, dtype)
        norm = tl.sqrt(square)
        tl.store(norm_ptr + image * C + c, norm, mask=c < C)
        total += norm
    mean = tl.sum(total, axis=0) / C + eps
    tl.store(mean_ptr + image, mean)
    # Another thread may have written what this one reads.
    tl.debug_barrier()
    for first in range(0, C, block_c):
        c = first + tl.arange(0, block_c)
        norm = _row(norm_ptr, image, c, C, dtype)
        tl.store(scale_ptr + image * C + c, 1 + _vector(gamma_ptr, c, C, dtype) * (norm / mean), mask=c < C)


@triton.jit(do_not_specialize=["units"])
def grn_apply_kernel(
    h_ptr,
    scale_ptr,
    beta_ptr,
    z_ptr,
    units,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """GELU and GRN, NHWC."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    p, c, inside = _tile(P, C, chunk, block_p, block_c)
    dtype: tl.constexpr = scale_ptr.dtype.element_ty
    at = _nhwc(image, p, c, P, C)
    h = tl.load(h_ptr + at, mask=inside, other=0).to(dtype)
    z = _gelu(h, h_ptr.dtype.element_ty.primitive_bitwidth == 16) * _row(scale_ptr, image, c, C, dtype)[None, :]
    if beta_ptr is not None:
        z += _vector(beta_ptr, c, C, dtype)[None, :]
    tl.store(z_ptr + at, z.to(z_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["units"])
def grn_grad_sums_kernel(
    grad_ptr,
    h_ptr,
    sum_ptr,
    units,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    tiles: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Sums over pixels of grad * gelu(h) and of grad, (2, B * chunks, C), NHWC."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    dot, plain = tl.zeros((block_p, block_c), dtype), tl.zeros((block_p, block_c), dtype)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    for tile in range(tiles):
        p, c, inside = _tile(P, C, chunk * tiles + tile, block_p, block_c)
        at = _nhwc(image, p, c, P, C)
        grad = tl.load(grad_ptr + at, mask=inside, other=0).to(dtype)
        h = tl.load(h_ptr + at, mask=inside, other=0).to(dtype)
        dot += grad * _gelu(h, h_ptr.dtype.element_ty.primitive_bitwidth == 16)
        plain += grad
    at = tl.program_id(0) * C + c
    tl.store(sum_ptr + at, tl.sum(dot, axis=0), mask=c < C)
    tl.store(sum_ptr + tl.num_programs(0) * C + at, tl.sum(plain, axis=0), mask=c < C)


@triton.jit
def grn_grad_scale_kernel(
    sum_ptr,
    gamma_ptr,
    norm_ptr,
    mean_ptr,
    scale_ptr,
    pull_ptr,
    part_ptr,
    chunks,
    C: tl.constexpr,
    block_c: tl.constexpr,
):
    """Each image's scale of the gradient and factor of gelu(h) in it, (B, C), and parts (2, B, C) for GRN."""
    image, images = tl.program_id(0), tl.num_programs(0)
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    mean = tl.load(mean_ptr + image)
    size = images * C
    total = tl.zeros((block_c,), dtype)
    for first in range(0, C, block_c):
        c = first + tl.arange(0, block_c)
        dot, plain = tl.zeros((block_c,), dtype), tl.zeros((block_c,), dtype)
        for chunk in range(chunks):
            at = image * chunks + chunk
            dot += _row(sum_ptr, at, c, C, dtype)
            plain += _row(sum_ptr + size * chunks, at, c, C, dtype)
        ratio = _row(norm_ptr, image, c, C, dtype) / mean
        gamma = _vector(gamma_ptr, c, C, dtype)
        total += dot * gamma * ratio
        at = image * C + c
        tl.store(part_ptr + at, dot * ratio, mask=c < C)
        tl.store(part_ptr + size + at, plain, mask=c < C)
        tl.store(scale_ptr + at, 1 + gamma * ratio, mask=c < C)
        tl.store(pull_ptr + at, dot * gamma, mask=c < C)
    average = tl.sum(total, axis=0) / C
    # Another thread may have written what this one reads.
    tl.debug_barrier()
    for first in range(0, C, block_c):
        c = first + tl.arange(0, block_c)
        norm = _row(norm_ptr, image, c, C, dtype)
        pull = (_row(pull_ptr, image, c, C, dtype) - average) / mean
        # A channel that is zero everywhere has a norm without gradient; PyTorch takes zero for it as well.
        pull = tl.where(norm > 0, pull / tl.where(norm > 0, norm, 1), 0)
        tl.store(pull_ptr + image * C + c, pull, mask=c < C)


@triton.jit(do_not_specialize=["units"])
def grn_backward_kernel(
    grad_ptr,
    h_ptr,
    scale_ptr,
    pull_ptr,
    beta_ptr,
    grad_h_ptr,
    z_ptr,
    sum_ptr,
    units,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    tiles: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Gradient through GRN and GELU, their output anew for the gradient of the layer after, and sums of the former.

    ``grad_h`` may be the memory of ``grad``. The sums, (B * chunks, C), are parts of the first layer's bias gradient.
    """
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    dtype: tl.constexpr = scale_ptr.dtype.element_ty
    total = tl.zeros((block_p, block_c), dtype)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    scale, pull = _row(scale_ptr, image, c, C, dtype)[None, :], _row(pull_ptr, image, c, C, dtype)[None, :]
    beta = _vector(beta_ptr, c, C, dtype)[None, :]
    for tile in range(tiles):
        p, c, inside = _tile(P, C, chunk * tiles + tile, block_p, block_c)
        at = _nhwc(image, p, c, P, C)
        grad = tl.load(grad_ptr + at, mask=inside, other=0).to(dtype)
        h = tl.load(h_ptr + at, mask=inside, other=0).to(dtype)
        g, slope = _gelu_and_slope(h, h_ptr.dtype.element_ty.primitive_bitwidth == 16)
        tl.store(z_ptr + at, (g * scale + beta).to(z_ptr.dtype.element_ty), mask=inside)
        grad = ((grad * scale + g * pull) * slope).to(grad_h_ptr.dtype.element_ty)
        tl.store(grad_h_ptr + at, grad, mask=inside)
        total += tl.where(inside, grad, 0).to(dtype)
    tl.store(sum_ptr + tl.program_id(0) * C + c, tl.sum(total, axis=0), mask=c < C)


@triton.jit(do_not_specialize=["images", "rows"])
def column_sums_kernel(
    part_ptr,
    bias_part_ptr,
    grad_gamma_ptr,
    grad_beta_ptr,
    grad_bias_ptr,
    images,
    rows,
    C: tl.constexpr,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
):
    """Gradients of GRN's weight and bias, from (2, images, C), and of the first layer's bias, from (rows, C)."""
    which = tl.program_id(0)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    dtype: tl.constexpr = part_ptr.dtype.element_ty
    source = part_ptr + which * images * C
    target = grad_gamma_ptr
    count = images
    if which == 1:
        target = grad_beta_ptr
    if which == 2:
        source, target, count = bias_part_ptr, grad_bias_ptr, rows
    total = tl.zeros((block_r, block_c), dtype)
    for first in range(0, count, block_r):
        r = first + tl.arange(0, block_r)
        inside = (r < count)[:, None] & (c < C)[None, :]
        total += tl.load(source + r[:, None] * C + c[None, :], mask=inside, other=0)
    tl.store(target + c, tl.sum(total, axis=0).to(target.dtype.element_ty), mask=c < C)


@triton.jit(do_not_specialize=["rows", "chunks"])
def tail_moments_kernel(
    y_ptr,
    sum_ptr,
    square_ptr,
    rows,
    chunks,
    C: tl.constexpr,
    tiles: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Partial moments of a map of ``rows`` pixels in NHWC, (C, chunks).

    Deviations are taken from the chunk's first pixel: sums of squares around zero would cancel.
    """
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    start = tl.program_id(0) * tiles * block_p
    first = tl.load(y_ptr + tl.cast(start, tl.int64) * C + c, mask=c < C, other=0).to(dtype)
    total, square = tl.zeros((block_p, block_c), dtype), tl.zeros((block_p, block_c), dtype)
    for tile in range(tiles):
        r = start + tile * block_p + tl.arange(0, block_p)
        inside = (r < rows)[:, None] & (c < C)[None, :]
        y = tl.load(y_ptr + tl.cast(r, tl.int64)[:, None] * C + c[None, :], mask=inside, other=0).to(dtype)
        y = tl.where(inside, y - first[None, :], 0)
        total += y
        square += y * y
    count = tl.minimum(rows - start, tiles * block_p).to(dtype)
    sums, squares = tl.sum(total, axis=0), tl.sum(square, axis=0)
    at = c * chunks + tl.program_id(0)
    tl.store(sum_ptr + at, sums + count * first, mask=c < C)
    tl.store(square_ptr + at, squares - sums * sums / count, mask=c < C)


@triton.jit(do_not_specialize=["units"])
def tail_kernel(
    y_ptr,
    x_ptr,
    stats_ptr,
    gamma_ptr,
    beta_ptr,
    layer_scale_ptr,
    keep_ptr,
    out_ptr,
    units,
    chunks,
    to_nchw: tl.constexpr,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Norm, layer scale, drop path and shortcut: x + keep * scale * norm(y); y is NHWC, x is NCHW."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    p, c, inside = _tile(P, C, chunk, block_p, block_c)
    dtype: tl.constexpr = tl.float64 if y_ptr.dtype.element_ty == tl.float64 else tl.float32
    y = tl.load(y_ptr + _nhwc(image, p, c, P, C), mask=inside, other=0).to(dtype)
    if stats_ptr is not None:
        scale = _vector(gamma_ptr, c, C, dtype) * _vector(stats_ptr + C, c, C, dtype)
        y = (y - _vector(stats_ptr, c, C, dtype)[None, :]) * scale[None, :] + _vector(beta_ptr, c, C, dtype)[None, :]
    if layer_scale_ptr is not None:
        y *= _vector(layer_scale_ptr, c, C, dtype)[None, :]
    if keep_ptr is not None:
        y *= tl.load(keep_ptr + image).to(dtype)
    y += tl.load(x_ptr + _nchw(image, p, c, P, C), mask=inside, other=0).to(dtype)
    tl.store(out_ptr + _place(image, p, c, P, C, to_nchw), y.to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["units"])
def contiguous_kernel(
    x_ptr,
    out_ptr,
    units,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """An NHWC map in NCHW."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    p, c, inside = _tile(P, C, chunk, block_p, block_c)
    x = tl.load(x_ptr + _nhwc(image, p, c, P, C), mask=inside)
    tl.store(out_ptr + _nchw(image, p, c, P, C), x, mask=inside)


@triton.jit(do_not_specialize=["units", "rows"])
def tail_sums_kernel(
    grad_ptr,
    y_ptr,
    stats_ptr,
    keep_ptr,
    sum_ptr,
    units,
    rows,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    tiles: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Sums of grad * normalized and of grad, after drop path, (2, C, rows); grad is NCHW, y NHWC."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    dot, plain = tl.zeros((block_p, block_c), dtype), tl.zeros((block_p, block_c), dtype)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    mean, rstd = _vector(stats_ptr, c, C, dtype), _vector(stats_ptr + C, c, C, dtype)
    for tile in range(tiles):
        p, c, inside = _tile(P, C, chunk * tiles + tile, block_p, block_c)
        grad = tl.load(grad_ptr + _nchw(image, p, c, P, C), mask=inside, other=0).to(dtype)
        y = tl.load(y_ptr + _nhwc(image, p, c, P, C), mask=inside, other=0).to(dtype)
        dot += grad * (y - mean[None, :])
        plain += grad
    dots, plains = tl.sum(dot, axis=0) * rstd, tl.sum(plain, axis=0)
    if keep_ptr is not None:
        keep = tl.load(keep_ptr + image).to(dtype)
        dots, plains = dots * keep, plains * keep
    at = c * rows + tl.program_id(0)
    tl.store(sum_ptr + at, dots, mask=c < C)
    tl.store(sum_ptr + C * rows + at, plains, mask=c < C)


@triton.jit(do_not_specialize=["rows"])
def tail_grad_kernel(
    sum_ptr,
    gamma_ptr,
    beta_ptr,
    layer_scale_ptr,
    total_ptr,
    grad_gamma_ptr,
    grad_beta_ptr,
    grad_layer_scale_ptr,
    rows,
    channels,
    block_r: tl.constexpr,
):
    """Those sums over all rows, (2, C), and the gradients of norm and layer scale."""
    channel = tl.program_id(0)
    dtype: tl.constexpr = sum_ptr.dtype.element_ty
    dot, plain = tl.zeros((block_r,), dtype), tl.zeros((block_r,), dtype)
    for first in range(0, rows, block_r):
        row = first + tl.arange(0, block_r)
        dot += tl.load(sum_ptr + channel * rows + row, mask=row < rows, other=0)
        plain += tl.load(sum_ptr + (channels + channel) * rows + row, mask=row < rows, other=0)
    dots, plains = tl.sum(dot, axis=0), tl.sum(plain, axis=0)
    tl.store(total_ptr + channel, dots)
    tl.store(total_ptr + channels + channel, plains)
    if layer_scale_ptr is not None:
        gamma, beta = tl.load(gamma_ptr + channel).to(dtype), tl.load(beta_ptr + channel).to(dtype)
        grad = gamma * dots + beta * plains
        tl.store(grad_layer_scale_ptr + channel, grad.to(grad_layer_scale_ptr.dtype.element_ty))
        scale = tl.load(layer_scale_ptr + channel).to(dtype)
        dots, plains = dots * scale, plains * scale
    tl.store(grad_gamma_ptr + channel, dots.to(grad_gamma_ptr.dtype.element_ty))
    tl.store(grad_beta_ptr + channel, plains.to(grad_beta_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["units"])
def tail_backward_kernel(
    grad_ptr,
    y_ptr,
    stats_ptr,
    gamma_ptr,
    layer_scale_ptr,
    keep_ptr,
    total_ptr,
    grad_y_ptr,
    units,
    chunks,
    C: tl.constexpr,
    unit: tl.constexpr,
    block_p: tl.constexpr,
    block_c: tl.constexpr,
):
    """Gradient through drop path, layer scale and norm, NCHW -> NHWC."""
    P = units * unit
    image, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    images = tl.num_programs(0) // chunks
    p, c, inside = _tile(P, C, chunk, block_p, block_c)
    dtype: tl.constexpr = total_ptr.dtype.element_ty
    count = images.to(dtype) * P.to(dtype)
    rstd = _vector(stats_ptr + C, c, C, dtype)
    scale = _vector(gamma_ptr, c, C, dtype) * rstd
    if layer_scale_ptr is not None:
        scale *= _vector(layer_scale_ptr, c, C, dtype)
    slope = rstd * _vector(total_ptr, c, C, dtype) / count
    offset = _vector(total_ptr + C, c, C, dtype) / count
    grad = tl.load(grad_ptr + _nchw(image, p, c, P, C), mask=inside, other=0).to(dtype)
    if keep_ptr is not None:
        grad *= tl.load(keep_ptr + image).to(dtype)
    at = _nhwc(image, p, c, P, C)
    y = tl.load(y_ptr + at, mask=inside, other=0).to(dtype) - _vector(stats_ptr, c, C, dtype)[None, :]
    grad = (grad - offset[None, :] - y * slope[None, :]) * scale[None, :]
    tl.store(grad_y_ptr + at, grad.to(grad_y_ptr.dtype.element_ty), mask=inside)
