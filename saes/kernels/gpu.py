"""The sparse training step on a GPU: Triton kernels over the active entries, without a host synchronisation.

As `saes.kernels.cpu`, but the number of entries is never asked for: every row has room for `capacity` of them, and an
overflow is flagged on the device. Padding has value 0 and the member's first column. Nothing is summed by atomics, so
that equal inputs give equal bits. TRITON_INTERPRET=1, set before this module is imported, runs it all on a CPU.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor
from triton import next_power_of_2

BLOCK = 1024  # pre-activations that a program looks at together
GATHERED = 8  # rows of a matrix that a program adds up together


class Padded(NamedTuple):
    """Active entries of each row, columns ascending. `counts` are the true ones; `overflow`: some exceed capacity."""

    columns: Int32[Tensor, "R capacity"]
    values: Float[Tensor, "R capacity"]
    counts: Int32[Tensor, "R"]
    overflow: Bool[Tensor, ""]


class Transposed(NamedTuple):
    """The entries by column: positions in the flattened [R, capacity], ascending inside a column, padding last."""

    feature_starts: Int64[Tensor, "ends"]
    order: Int64[Tensor, "places"]


def compact(pre: Float[Tensor, "N B F"], cut: float, capacity: int, padding: float = 0.0) -> Padded:
    """The entries with pre > cut, of a row with more than `capacity` the first ones."""
    return _compact(pre, pre.new_full(pre.shape[:2], cut), capacity, padding, each=False)


def compact_by_row(pre: Float[Tensor, "N B F"], cut: Float[Tensor, "N B"], capacity: int) -> Padded:
    """The entries with pre > cut, the cut being the row's own."""
    return _compact(pre, cut, capacity, 0.0, each=False)


def compact_by_feature(
    pre: Float[Tensor, "N B F"], cut: Float[Tensor, "N F"], capacity: int, padding: float = 0.0
) -> Padded:
    """The entries with pre > cut, the cut being the feature's own."""
    return _compact(pre, cut, capacity, padding, each=True)


def compact_top_k(pre: Float[Tensor, "N B F"], k: Sequence[int]) -> Padded:
    """Of each row the k[n] largest positive values, in descending order; the capacity is the largest k."""
    members, _, features = pre.shape
    values, index = pre.topk(min(max(k), features), dim=-1)
    kept = values > 0
    places = torch.arange(values.shape[-1], device=pre.device)
    for member, each in enumerate(k):
        if each < max(k):
            kept[member] &= places < each
    first = torch.arange(members, device=pre.device)[:, None, None] * features
    columns = (index + first).to(torch.int32).flatten(0, 1)
    counts = kept.sum(-1, dtype=torch.int32).flatten()
    return Padded(columns, torch.where(kept, values, 0.0).flatten(0, 1), counts, counts.new_zeros((), dtype=torch.bool))


def compact_batch_top_k(pre: Float[Tensor, "N B F"], k: Sequence[int], capacity: int) -> Padded:
    """Of each member's whole batch the k[n]·B largest positive values, columns ascending in each row."""
    members, batch, features = pre.shape
    columns = torch.empty(members, batch * capacity + 1, dtype=torch.int32, device=pre.device)
    columns.copy_(torch.arange(members, device=pre.device)[:, None] * features)
    values = pre.new_zeros(columns.shape)  # the last place takes what finds no other
    counts = torch.empty(members, batch, dtype=torch.int32, device=pre.device)
    for member, each in enumerate(k):
        largest, place = pre[member].flatten().topk(min(each, features) * batch)
        # places ascending, with those of values that are not positive at the end, in no row
        place = place.masked_fill(largest <= 0, batch * features).sort().values
        row = place // features
        starts = torch.searchsorted(row, torch.arange(batch + 1, device=pre.device))
        counts[member] = starts.diff()
        within = torch.arange(len(place), device=pre.device) - starts[row]
        target = torch.where((row < batch) & (within < capacity), row * capacity + within, batch * capacity)
        columns[member].scatter_(0, target, (place % features + member * features).to(torch.int32))
        values[member].scatter_(0, target, pre[member].flatten()[place.clamp_max(batch * features - 1)])
    flat = (columns[:, :-1].reshape(-1, capacity), values[:, :-1].reshape(-1, capacity), counts.flatten())
    return Padded(*flat, (counts > capacity).any())


def decode(
    values: Float[Tensor, "R capacity"],
    columns: Int32[Tensor, "R capacity"],
    counts: Int32[Tensor, "R"],
    W_dec: Float[Tensor, "NF D"],
    bias: Float[Tensor, "N D"],
) -> Float[Tensor, "R D"]:
    """Σ values · W_dec[columns] + bias, per row."""
    rows, width = len(values), W_dec.shape[1]
    decoded = W_dec.new_empty(rows, width)
    _decode_error[(rows,)](
        values, columns, counts, W_dec, bias, bias, bias, decoded, decoded, rows // len(bias), width, values.shape[1],
        WITH_TARGETS=False, WITH_BASE=False, **_tiles(width),
    )  # fmt: skip
    return decoded


def decode_error(
    values: Float[Tensor, "R capacity"],
    columns: Int32[Tensor, "R capacity"],
    counts: Int32[Tensor, "R"],
    W_dec: Float[Tensor, "NF D"],
    bias: Float[Tensor, "N D"],
    targets: Float[Tensor, "B D"],
    base: Float[Tensor, "R D"] | None = None,
) -> tuple[Float[Tensor, "R D"], Float[Tensor, "R capacity"]]:
    """The error decode + bias + base − targets, and each entry's slope error_r · W_dec[column] (0 in the padding)."""
    rows, width = len(values), targets.shape[1]
    error, slope = targets.new_empty(rows, width), torch.zeros_like(values)
    _decode_error[(rows,)](
        values, columns, counts, W_dec, bias, targets, targets if base is None else base, error, slope,
        len(targets), width, values.shape[1], WITH_TARGETS=True, WITH_BASE=base is not None, **_tiles(width),
    )  # fmt: skip
    return error, slope


def slopes(
    gradient: Float[Tensor, "R D"],
    columns: Int32[Tensor, "R capacity"],
    counts: Int32[Tensor, "R"],
    W_dec: Float[Tensor, "NF D"],
) -> Float[Tensor, "R capacity"]:
    """gradient_r · W_dec[column] of each entry (0 in the padding)."""
    width, capacity = W_dec.shape[1], columns.shape[1]
    found = gradient.new_zeros(columns.shape)
    _slopes[(len(gradient),)](gradient, columns, counts, W_dec, found, width, capacity, **_tiles(width))
    return found


def transpose(columns: Int32[Tensor, "R capacity"], counts: Int32[Tensor, "R"], features: int) -> Transposed:
    """The entries by column, `features` = N·F of them; padding sorts behind the last column."""
    places = torch.arange(columns.shape[1], device=columns.device)
    keys = columns.masked_fill(places >= counts[:, None], features).flatten()
    found = keys.sort(stable=True)
    edges = torch.arange(features + 1, device=columns.device, dtype=columns.dtype)
    return Transposed(torch.searchsorted(found.values, edges), found.indices)


def weight_gradient(
    weights: Float[Tensor, "R capacity"],
    feature_starts: Int64[Tensor, "ends"],
    order: Int64[Tensor, "places"],
    dense: Float[Tensor, "rows D"],
    out: Float[Tensor, "NF D"] | None = None,
) -> Float[Tensor, "NF D"]:
    """Of each column the sum of weight · dense[row]; `dense` has R rows, or the B rows that all members share."""
    width = dense.shape[1]
    if out is None:
        out = dense.new_empty(len(feature_starts) - 1, width)
    _weight_gradient[(len(out),)](
        weights, feature_starts, order, dense, out, len(dense), width, weights.shape[1], **_tiles(width),
    )  # fmt: skip
    return out


def column_sums(
    weights: Float[Tensor, "R capacity"], feature_starts: Int64[Tensor, "ends"], order: Int64[Tensor, "places"]
) -> Float[Tensor, "NF"]:
    """Of each column the sum of its weights."""
    sums = weights.new_empty(len(feature_starts) - 1)
    _column_sums[(len(sums),)](weights, feature_starts, order, sums, BLOCK=128)
    return sums


def sum_of_squares(
    g: Float[Tensor, "*rows D"], members: int = 1, unit_rows: Float[Tensor, "*rows D"] | None = None
) -> Float[Tensor, "N"]:
    """Σ g² of each member, without g's part along the rows of `unit_rows` (of norm 1) if these are given."""
    rows, width, blocks, block = _pieces(g, members, unit_rows is not None)
    squares = g.new_empty(rows * blocks)
    _squares[(len(squares),)](
        g, g if unit_rows is None else unit_rows, squares, width, blocks, PROJECT=unit_rows is not None, WIDTH=block
    )
    return squares.view(members, -1).sum(1)


def adam(
    w: Float[Tensor, "*rows D"],
    g: Float[Tensor, "*rows D"],
    m: Float[Tensor, "*rows D"],
    v: Float[Tensor, "*rows D"],
    *,
    lr: float | Float[Tensor, "N"],
    beta1: float,
    beta2: float,
    eps: float,
    step: int | Tensor,
    scale: float | Float[Tensor, "N"] = 1.0,
    unit_rows: bool = False,
) -> None:
    """saes.kernels.cpu.adam on the device; tensors for lr, step and scale stay there (a CUDA graph can then replay)."""
    members = max(len(part) if isinstance(part, Tensor) else 1 for part in (lr, scale))
    ones = torch.ones(members, dtype=torch.float64, device=w.device)
    step_size = (ones * lr / (1 - (ones * beta1) ** step)).to(w.dtype)
    correction = ((1 - (ones * beta2) ** step) ** -0.5).to(w.dtype)
    rows, width, blocks, block = _pieces(w, members, unit_rows)
    _adam[(rows * blocks,)](
        w, g, m, v, step_size, correction, (ones * scale).to(w.dtype), rows // members, width, blocks,
        REST1=1 - beta1, BETA2=beta2, REST2=1 - beta2, EPS=eps, UNIT=unit_rows, WIDTH=block,
    )  # fmt: skip


def _tiles(width: int) -> dict[str, int]:
    """How a program holds GATHERED rows of a matrix: 64 numbers a thread at most, where that many threads exist."""
    padded = next_power_of_2(width)
    return {"WIDTH": padded, "GATHERED": GATHERED, "num_warps": max(4, min(16, padded * GATHERED // 2048))}


def _pieces(tensor: Tensor, members: int, whole_rows: bool) -> tuple[int, int, int, int]:
    """Rows, their width, programs a row and numbers a program; without a need for rows each member is one long row."""
    if whole_rows:
        width = tensor.shape[-1]
        return tensor.numel() // width, width, 1, next_power_of_2(width)
    width = tensor.numel() // members
    block = min(BLOCK, next_power_of_2(width))
    return members, width, triton.cdiv(width, block), block


def _compact(pre: Tensor, cut: Tensor, capacity: int, padding: float, each: bool) -> Padded:
    members, batch, features = pre.shape
    rows = members * batch
    columns = torch.empty(rows, capacity, dtype=torch.int32, device=pre.device)
    values = pre.new_empty(rows, capacity)
    counts = torch.empty(rows, dtype=torch.int32, device=pre.device)
    block = min(BLOCK, next_power_of_2(features))
    _compact_row[(rows,)](
        pre, cut, columns, values, counts, batch, features, capacity, PADDING=padding, EACH=each, BLOCK=block
    )
    return Padded(columns, values, counts, (counts > capacity).any())


# ---- kernels: one program a row (or a column) ----


def _kernel(function: Callable[..., Any]) -> Any:
    """Triton's; of the function itself, since a checker of annotations may stand around it."""
    return triton.jit(inspect.unwrap(function))


@_kernel
def _compact_row(
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


@_kernel
def _tile(matrix, rows, inside, d, width):
    """Some rows of a matrix, 0 outside."""
    mask = inside[:, None] & (d < width)[None, :]
    return tl.load(matrix + rows.to(tl.int64)[:, None] * width + d[None, :], mask=mask, other=0.0)


@_kernel
def _row_slopes(vector, r, count, columns, matrix, found, width, capacity, d, GATHERED: tl.constexpr):
    for first in range(0, count, GATHERED):
        place = first + tl.arange(0, GATHERED)
        inside = place < count
        column = tl.load(columns + r * capacity + place, mask=inside, other=0)
        slope = tl.sum(_tile(matrix, column, inside, d, width) * vector[None, :], 1)
        tl.store(found + r * capacity + place, slope, mask=inside)


@_kernel
def _decode_error(
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


@_kernel
def _slopes(
    gradient, columns, counts, matrix, found, width, capacity, WIDTH: tl.constexpr, GATHERED: tl.constexpr
):  # fmt: skip
    r = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, WIDTH)
    vector = tl.load(gradient + r * width + d, mask=d < width, other=0.0)
    count = tl.minimum(tl.load(counts + r), capacity)
    _row_slopes(vector, r, count, columns, matrix, found, width, capacity, d, GATHERED)


@_kernel
def _weight_gradient(
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


@_kernel
def _column_sums(weights, starts, order, sums, BLOCK: tl.constexpr):
    c = tl.program_id(0).to(tl.int64)
    end = tl.load(starts + c + 1)
    total = tl.zeros([BLOCK], sums.dtype.element_ty)
    for first in range(tl.load(starts + c), end, BLOCK):
        place = first + tl.arange(0, BLOCK)
        entry = tl.load(order + place, mask=place < end, other=0)
        total += tl.load(weights + entry, mask=place < end, other=0.0)
    tl.store(sums + c, tl.sum(total, 0))


@_kernel
def _squares(gradient, unit_rows, squares, width, blocks, PROJECT: tl.constexpr, WIDTH: tl.constexpr):
    piece = tl.program_id(0).to(tl.int64)
    r = piece // blocks
    d = piece % blocks * WIDTH + tl.arange(0, WIDTH)
    g = tl.load(gradient + r * width + d, mask=d < width, other=0.0)
    if PROJECT:
        w = tl.load(unit_rows + r * width + d, mask=d < width, other=0.0)
        g -= tl.sum(g * w, 0) * w
    tl.store(squares + piece, tl.sum(g * g, 0))


@_kernel
def _adam(
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
