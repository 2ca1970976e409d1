"""The sparse training step on a GPU: Triton kernels over the active entries, without a host synchronisation.

As `saes.kernels.cpu`, but the number of entries is never asked for: every row has room for `capacity` of them, and an
overflow is flagged on the device. Padding has value 0 and the member's first column. Nothing is summed by atomics, so
that equal inputs give equal bits. TRITON_INTERPRET=1, set before this module is imported, runs it all on a CPU.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor
from triton import next_power_of_2

from saes.kernels import programs

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
    programs.decode_error[(rows,)](
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
    programs.decode_error[(rows,)](
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
    programs.slopes[(len(gradient),)](gradient, columns, counts, W_dec, found, width, capacity, **_tiles(width))
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
    programs.weight_gradient[(len(out),)](
        weights, feature_starts, order, dense, out, len(dense), width, weights.shape[1], **_tiles(width),
    )  # fmt: skip
    return out


def column_sums(
    weights: Float[Tensor, "R capacity"], feature_starts: Int64[Tensor, "ends"], order: Int64[Tensor, "places"]
) -> Float[Tensor, "NF"]:
    """Of each column the sum of its weights."""
    sums = weights.new_empty(len(feature_starts) - 1)
    programs.column_sums[(len(sums),)](weights, feature_starts, order, sums, BLOCK=128)
    return sums


def sum_of_squares(
    g: Float[Tensor, "*rows D"], members: int = 1, unit_rows: Float[Tensor, "*rows D"] | None = None
) -> Float[Tensor, "N"]:
    """Σ g² of each member, without g's part along the rows of `unit_rows` (of norm 1) if these are given."""
    rows, width, blocks, block = _pieces(g, members, unit_rows is not None)
    squares = g.new_empty(rows * blocks)
    programs.squares[(len(squares),)](
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
    programs.adam[(rows * blocks,)](
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
    programs.compact_row[(rows,)](
        pre, cut, columns, values, counts, batch, features, capacity, PADDING=padding, EACH=each, BLOCK=block
    )
    return Padded(columns, values, counts, (counts > capacity).any())
