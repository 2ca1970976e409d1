"""Triton programs of the GPU's sparse step, one program a row (or a column, or a piece of a tensor)."""

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def kernel(function: Callable[..., Any]) -> Any:
    """Triton's; of the function itself, since a checker of annotations may stand around it."""
    return triton.jit(inspect.unwrap(function))


@kernel
def compact_row(
    pre, cut, columns, values, counts, batch, features, capacity,
    PADDING: tl.constexpr, EACH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    member = r // batch
    lane = tl.arange(0, BLOCK)
    found = 0
    for first in range(0, features, BLOCK):
        f = first + lane
        inside = f < features
        value = tl.load(pre + r * features + f, mask=inside, other=0.0)
        bound = tl.load(cut + member * features + f, mask=inside, other=0.0) if EACH else tl.load(cut + r)
        active = ((value > bound) & inside).to(tl.int32)
        place = found + tl.cumsum(active, 0) - active
        keep = (active > 0) & (place < capacity)
        tl.store(columns + r * capacity + place, (member * features + f).to(tl.int32), mask=keep)
        tl.store(values + r * capacity + place, value, mask=keep)
        found += tl.sum(active, 0)  # type: ignore[operator]  # pyright takes a sum for a tuple
    tl.store(counts + r, found)
    for first in range(0, capacity, BLOCK):
        place = first + lane
        padding = (place >= found) & (place < capacity)
        tl.store(columns + r * capacity + place, (member * features + lane * 0).to(tl.int32), mask=padding)
        tl.store(values + r * capacity + place, (lane * 0 + PADDING).to(values.dtype.element_ty), mask=padding)


@kernel
def _tile(matrix, rows, inside, d, width):
    """Some rows of a matrix, 0 outside."""
    mask = inside[:, None] & (d < width)[None, :]
    return tl.load(matrix + rows.to(tl.int64)[:, None] * width + d[None, :], mask=mask, other=0.0)


@kernel
def _row_slopes(vector, r, count, columns, matrix, found, width, capacity, d, GATHERED: tl.constexpr):
    for first in range(0, count, GATHERED):
        place = first + tl.arange(0, GATHERED)
        inside = place < count
        column = tl.load(columns + r * capacity + place, mask=inside, other=0)
        slope = tl.sum(_tile(matrix, column, inside, d, width) * vector[None, :], 1)
        tl.store(found + r * capacity + place, slope, mask=inside)


@kernel
def decode_error(
    values, columns, counts, matrix, bias, targets, base, error, found, batch, width, capacity,
    WITH_TARGETS: tl.constexpr, WITH_BASE: tl.constexpr, WIDTH: tl.constexpr, GATHERED: tl.constexpr,
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)
    wide = d < width
    count = tl.minimum(tl.load(counts + r), capacity)
    total = tl.load(bias + r // batch * width + d, mask=wide, other=0.0)
    if WITH_TARGETS:
        total -= tl.load(targets + r % batch * width + d, mask=wide, other=0.0)
    if WITH_BASE:
        total += tl.load(base + r * width + d, mask=wide, other=0.0)
    for first in range(0, count, GATHERED):
        place = first + tl.arange(0, GATHERED)
        inside = place < count
        value = tl.load(values + r * capacity + place, mask=inside, other=0.0)
        column = tl.load(columns + r * capacity + place, mask=inside, other=0)
        total += tl.sum(_tile(matrix, column, inside, d, width) * value[:, None], 0)
    tl.store(error + r * width + d, total, mask=wide)
    if WITH_TARGETS:
        _row_slopes(total, r, count, columns, matrix, found, width, capacity, d, GATHERED)


@kernel
def slopes(
    gradient, columns, counts, matrix, found, width, capacity, WIDTH: tl.constexpr, GATHERED: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)
    vector = tl.load(gradient + r * width + d, mask=d < width, other=0.0)
    count = tl.minimum(tl.load(counts + r), capacity)
    _row_slopes(vector, r, count, columns, matrix, found, width, capacity, d, GATHERED)


@kernel
def weight_gradient(
    weights, starts, order, dense, out, dense_rows, width, capacity, WIDTH: tl.constexpr, GATHERED: tl.constexpr
):  # fmt: skip
    c = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)
    end = tl.load(starts + c + 1)
    total = tl.zeros([WIDTH], out.dtype.element_ty)
    for first in range(tl.load(starts + c), end, GATHERED):
        place = first + tl.arange(0, GATHERED)
        inside = place < end
        entry = tl.load(order + place, mask=inside, other=0)
        weight = tl.load(weights + entry, mask=inside, other=0.0)
        total += tl.sum(_tile(dense, entry // capacity % dense_rows, inside, d, width) * weight[:, None], 0)
    tl.store(out + c * width + d, total, mask=d < width)


@kernel
def column_sums(weights, starts, order, sums, BLOCK: tl.constexpr):
    c = tl.program_id(0).to(tl.int64)
    end = tl.load(starts + c + 1)
    total = tl.zeros([BLOCK], sums.dtype.element_ty)
    for first in range(tl.load(starts + c), end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        entry = tl.load(order + place, mask=place < end, other=0)
        total += tl.load(weights + entry, mask=place < end, other=0.0)
    tl.store(sums + c, tl.sum(total, 0))


@kernel
def squares(gradient, unit_rows, squares, width, blocks, PROJECT: tl.constexpr, WIDTH: tl.constexpr):
    piece = tl.program_id(0).to(tl.int64)
    r = piece // blocks
    d = piece % blocks * WIDTH + tl.arange(0, WIDTH)
    g = tl.load(gradient + r * width + d, mask=d < width, other=0.0)
    if PROJECT:
        w = tl.load(unit_rows + r * width + d, mask=d < width, other=0.0)
        g -= tl.sum(g * w, 0) * w
    tl.store(squares + piece, tl.sum(g * g, 0))


@kernel
def adam(
    W, G, M, V, step_size, correction, scale, per_member, width, blocks, REST1: tl.constexpr, BETA2: tl.constexpr,
    REST2: tl.constexpr, EPS: tl.constexpr, UNIT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0).to(tl.int64)
    r = piece // blocks
    member = r // per_member
    d = piece % blocks * WIDTH + tl.arange(0, WIDTH)
    wide = d < width
    at = r * width + d
    w = tl.load(W + at, mask=wide, other=0.0)
    g = tl.load(G + at, mask=wide, other=0.0)
    m = tl.load(M + at, mask=wide, other=0.0)
    v = tl.load(V + at, mask=wide, other=0.0)
    if UNIT:
        g -= tl.sum(g * w, 0) * w
    g *= tl.load(scale + member)
    m += REST1 * (g - m)
    v = BETA2 * v + REST2 * g * g
    w -= tl.load(step_size + member) * m / (tl.sqrt(v) * tl.load(correction + member) + EPS)
    if UNIT:
        norm = tl.sqrt(tl.sum(w * w, 0))
        w = tl.where(norm > 0, w / norm, w)
    tl.store(W + at, w, mask=wide)
    tl.store(M + at, m, mask=wide)
    tl.store(V + at, v, mask=wide)
