"""Triton kernels of SE, the two small layers on each image's pooled vector, forward and backward.

They work on 16 images at a time, the smallest tile of a matrix product.
"""

# The types of kernel arguments are Triton's, not Python's.
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

import triton
import triton.language as tl


@triton.jit
def _matrix(ptr, rows, columns, n_rows, n_columns, dtype: tl.constexpr):
    """[rows, columns] of a row-major matrix, zero beyond its end."""
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    return tl.load(ptr + rows[:, None] * n_columns + columns[None, :], mask=inside, other=0).to(dtype)


@triton.jit
def _put(ptr, rows, columns, n_rows, n_columns, values):
    inside = (rows < n_rows)[:, None] & (columns < n_columns)[None, :]
    tl.store(ptr + rows[:, None] * n_columns + columns[None, :], values.to(ptr.dtype.element_ty), mask=inside)


@triton.jit
def _normalized(pooled_ptr, stats_ptr, b, c, images, channels, dtype: tl.constexpr):
    """Each image's mean after the norm, without the norm's weight and bias."""
    pooled = _matrix(pooled_ptr, b, c, images, channels, dtype)
    if stats_ptr is not None:
        mean = tl.load(stats_ptr + c, mask=c < channels, other=0)
        rstd = tl.load(stats_ptr + channels + c, mask=c < channels, other=0)
        pooled = (pooled - mean[None, :]) * rstd[None, :]
    return pooled


@triton.jit
def _squeezed(pooled_ptr, stats_ptr, gamma_ptr, beta_ptr, b, c, images, channels, dtype: tl.constexpr):
    """Each image's mean after the norm."""
    pooled = _normalized(pooled_ptr, stats_ptr, b, c, images, channels, dtype)
    if stats_ptr is not None:
        gamma = tl.load(gamma_ptr + c, mask=c < channels, other=0).to(dtype)
        beta = tl.load(beta_ptr + c, mask=c < channels, other=0).to(dtype)
        pooled = pooled * gamma[None, :] + beta[None, :]
    return pooled


@triton.jit(do_not_specialize=["images"])
def squeeze_kernel(
    pooled_ptr,
    stats_ptr,
    gamma_ptr,
    beta_ptr,
    weight_ptr,
    bias_ptr,
    hidden_ptr,
    images,
    channels,
    reduced,
    precision: tl.constexpr,
    block_b: tl.constexpr,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
):
    """relu(squeezed @ weight.T + bias), (B, R)."""
    b = tl.program_id(0) * block_b + tl.arange(0, block_b)
    r = tl.program_id(1) * block_r + tl.arange(0, block_r)
    dtype: tl.constexpr = hidden_ptr.dtype.element_ty
    acc = tl.zeros((block_b, block_r), dtype)
    for first in range(0, channels, block_c):
        c = first + tl.arange(0, block_c)
        squeezed = _squeezed(pooled_ptr, stats_ptr, gamma_ptr, beta_ptr, b, c, images, channels, dtype)
        squeezed = tl.where((c < channels)[None, :], squeezed, 0)
        weight = _matrix(weight_ptr, r, c, reduced, channels, dtype)
        acc = tl.dot(squeezed, tl.trans(weight), acc, input_precision=precision, out_dtype=dtype)
    acc += tl.load(bias_ptr + r, mask=r < reduced, other=0).to(dtype)[None, :]
    _put(hidden_ptr, b, r, images, reduced, tl.maximum(acc, 0))


@triton.jit(do_not_specialize=["images"])
def excite_kernel(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    gate_ptr,
    images,
    channels,
    reduced,
    precision: tl.constexpr,
    block_b: tl.constexpr,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
):
    """sigmoid(hidden @ weight.T + bias), (B, C)."""
    b = tl.program_id(0) * block_b + tl.arange(0, block_b)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    dtype: tl.constexpr = gate_ptr.dtype.element_ty
    acc = tl.zeros((block_b, block_c), dtype)
    for first in range(0, reduced, block_r):
        r = first + tl.arange(0, block_r)
        hidden = _matrix(hidden_ptr, b, r, images, reduced, dtype)
        weight = _matrix(weight_ptr, c, r, channels, reduced, dtype)
        acc = tl.dot(hidden, tl.trans(weight), acc, input_precision=precision, out_dtype=dtype)
    acc += tl.load(bias_ptr + c, mask=c < channels, other=0).to(dtype)[None, :]
    small = tl.exp(-tl.abs(acc))  # never overflows
    _put(gate_ptr, b, c, images, channels, tl.where(acc >= 0, 1, small) / (1 + small))


@triton.jit(do_not_specialize=["images", "chunks"])
def excite_backward_kernel(
    sum_ptr,
    gamma_ptr,
    beta_ptr,
    gate_ptr,
    hidden_ptr,
    weight_ptr,
    total_ptr,
    grad_logit_ptr,
    grad_hidden_ptr,
    images,
    chunks,
    channels,
    reduced,
    precision: tl.constexpr,
    block_b: tl.constexpr,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
):
    """Gradients before the sigmoid, (B, C), and before the ReLU, (B, R), and the given sums over chunks, (2, B, C)."""
    b = tl.program_id(0) * block_b + tl.arange(0, block_b)
    r = tl.program_id(1) * block_r + tl.arange(0, block_r)
    dtype: tl.constexpr = gate_ptr.dtype.element_ty
    size = images * channels
    acc = tl.zeros((block_b, block_r), dtype)
    for first in range(0, channels, block_c):
        c = first + tl.arange(0, block_c)
        inside = (b < images)[:, None] & (c < channels)[None, :]
        dot, plain = tl.zeros((block_b, block_c), dtype), tl.zeros((block_b, block_c), dtype)
        for chunk in range(chunks):
            at = (b * chunks + chunk)[:, None] * channels + c[None, :]
            dot += tl.load(sum_ptr + at, mask=inside, other=0)
            plain += tl.load(sum_ptr + size * chunks + at, mask=inside, other=0)
        gamma = tl.load(gamma_ptr + c, mask=c < channels, other=0).to(dtype)
        beta = tl.load(beta_ptr + c, mask=c < channels, other=0).to(dtype)
        gate = _matrix(gate_ptr, b, c, images, channels, dtype)
        grad = (dot * gamma[None, :] + plain * beta[None, :]) * gate * (1 - gate)
        if tl.program_id(1) == 0:
            _put(total_ptr, b, c, images, channels, dot)
            _put(total_ptr + size, b, c, images, channels, plain)
            _put(grad_logit_ptr, b, c, images, channels, grad)
        weight = _matrix(weight_ptr, c, r, channels, reduced, dtype)
        acc = tl.dot(grad, weight, acc, input_precision=precision, out_dtype=dtype)
    hidden = _matrix(hidden_ptr, b, r, images, reduced, dtype)
    _put(grad_hidden_ptr, b, r, images, reduced, tl.where(hidden > 0, acc, 0))


@triton.jit(do_not_specialize=["images"])
def squeeze_backward_kernel(
    grad_hidden_ptr,
    weight_ptr,
    total_ptr,
    gate_ptr,
    pooled_ptr,
    stats_ptr,
    grad_pooled_ptr,
    part_ptr,
    images,
    channels,
    reduced,
    precision: tl.constexpr,
    block_b: tl.constexpr,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
):
    """Gradient of each image's mean, (B, C), and parts (blocks of images, 2, C) of the norm's parameter gradients."""
    b = tl.program_id(0) * block_b + tl.arange(0, block_b)
    c = tl.program_id(1) * block_c + tl.arange(0, block_c)
    dtype: tl.constexpr = gate_ptr.dtype.element_ty
    acc = tl.zeros((block_b, block_c), dtype)
    for first in range(0, reduced, block_r):
        r = first + tl.arange(0, block_r)
        grad = _matrix(grad_hidden_ptr, b, r, images, reduced, dtype)
        weight = _matrix(weight_ptr, r, c, reduced, channels, dtype)
        acc = tl.dot(grad, weight, acc, input_precision=precision, out_dtype=dtype)
    _put(grad_pooled_ptr, b, c, images, channels, acc)
    gate = _matrix(gate_ptr, b, c, images, channels, dtype)
    dot = _matrix(total_ptr, b, c, images, channels, dtype)
    plain = _matrix(total_ptr + images * channels, b, c, images, channels, dtype)
    normalized = _normalized(pooled_ptr, stats_ptr, b, c, images, channels, dtype)
    # Images beyond the last have zeros everywhere but here.
    normalized = tl.where((b < images)[:, None], normalized, 0)
    at = tl.program_id(0) * 2 * channels + c
    tl.store(part_ptr + at, tl.sum(gate * dot + acc * normalized, axis=0), mask=c < channels)
    tl.store(part_ptr + at + channels, tl.sum(gate * plain + acc, axis=0), mask=c < channels)


@triton.jit(do_not_specialize=["images", "parts"])
def squeeze_weights_kernel(
    grad_logit_ptr,
    grad_hidden_ptr,
    hidden_ptr,
    pooled_ptr,
    stats_ptr,
    gamma_ptr,
    beta_ptr,
    part_ptr,
    grad_weight1_ptr,
    grad_bias1_ptr,
    grad_weight2_ptr,
    grad_bias2_ptr,
    grad_norm_ptr,
    images,
    parts,
    channels,
    reduced,
    precision: tl.constexpr,
    block_b: tl.constexpr,
    block_r: tl.constexpr,
    block_c: tl.constexpr,
):
    """Gradients of both layers' weights, (R, C) and (C, R), and biases, and of the norm's weight and bias, (2, C)."""
    c = tl.program_id(0) * block_c + tl.arange(0, block_c)
    r = tl.program_id(1) * block_r + tl.arange(0, block_r)
    dtype: tl.constexpr = hidden_ptr.dtype.element_ty
    first_layer, second_layer = tl.zeros((block_r, block_c), dtype), tl.zeros((block_c, block_r), dtype)
    bias1, bias2 = tl.zeros((block_r,), dtype), tl.zeros((block_c,), dtype)
    for first in range(0, images, block_b):
        b = first + tl.arange(0, block_b)
        squeezed = _squeezed(pooled_ptr, stats_ptr, gamma_ptr, beta_ptr, b, c, images, channels, dtype)
        hidden = _matrix(hidden_ptr, b, r, images, reduced, dtype)
        grad_hidden = _matrix(grad_hidden_ptr, b, r, images, reduced, dtype)
        grad_logit = _matrix(grad_logit_ptr, b, c, images, channels, dtype)
        # Images beyond the last have no gradient.
        first_layer = tl.dot(tl.trans(grad_hidden), squeezed, first_layer, input_precision=precision, out_dtype=dtype)
        second_layer = tl.dot(tl.trans(grad_logit), hidden, second_layer, input_precision=precision, out_dtype=dtype)
        bias1 += tl.sum(grad_hidden, axis=0)
        bias2 += tl.sum(grad_logit, axis=0)
    _put(grad_weight1_ptr, r, c, reduced, channels, first_layer)
    _put(grad_weight2_ptr, c, r, channels, reduced, second_layer)
    if tl.program_id(0) == 0:
        tl.store(grad_bias1_ptr + r, bias1.to(grad_bias1_ptr.dtype.element_ty), mask=r < reduced)
    if tl.program_id(1) == 0:
        tl.store(grad_bias2_ptr + c, bias2.to(grad_bias2_ptr.dtype.element_ty), mask=c < channels)
        grad_gamma, grad_beta = tl.zeros((block_c,), dtype), tl.zeros((block_c,), dtype)
        for part in range(parts):
            at = part * 2 * channels + c
            grad_gamma += tl.load(part_ptr + at, mask=c < channels, other=0)
            grad_beta += tl.load(part_ptr + at + channels, mask=c < channels, other=0)
        tl.store(grad_norm_ptr + c, grad_gamma, mask=c < channels)
        tl.store(grad_norm_ptr + channels + c, grad_beta, mask=c < channels)
