"""The sparse training step on a CPU: numba kernels over the active entries, on torch tensors without copies.

Layout. `pre` [N, B, F] are pre-activations of N dictionaries; row r = n·B + b, column c = n·F + f. The active entries
are in CSR (`Entries`), columns ascending inside a row; `transpose` gives the same entries in CSC. Everything takes
float32 and float64, and records nothing for autograd.

Every row (or column) is summed by one thread in a fixed order, so that no result depends on the number of threads.
The kernels are compiled single-threaded without the GIL and spread over Python threads, as many as
torch.get_num_threads(): numba's own pools are avoided, because the portable one ends the process when two threads call
it at once (a backward pass and an evaluation, say), and its OpenMP, a second one beside torch's, hangs after a fork.
"""

import inspect
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numba
import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int32, Int64
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

# Sums may be reordered into SIMD lanes and multiply-adds contracted; NaN and infinity keep their meaning.
REORDERED_SUMS = {"reassoc", "contract", "nsz"}
WORD = 32  # entries that share one word of the bit mask
LANES_PER_WINNER = 8  # the k-th largest value is bounded by the k-th largest of so many times k lane maxima
HISTOGRAM_BITS = 15
PIECES_PER_THREAD = 8  # handed out one by one, because cores that are shared do not run equally fast


class Entries(NamedTuple):
    """Active entries in CSR: row r holds `columns[starts[r]:starts[r + 1]]`, ascending, and their `values`."""

    starts: Int64[Tensor, "rows+1"]
    columns: Int32[Tensor, "entries"]
    values: Float[Tensor, "entries"]


class Transposed(NamedTuple):
    """The same entries in CSC: rows ascending inside a column, and the CSR position that each entry came from."""

    feature_starts: Int64[Tensor, "columns+1"]
    rows: Int32[Tensor, "entries"]
    order: Int32[Tensor, "entries"]


def compact(pre: Float[Tensor, "N B F"], cut: float) -> Entries:
    """The entries with pre > cut."""
    members, batch, _ = pre.shape
    return _compact(pre, np.full(members * batch, cut, _array(pre).dtype))


def compact_by_row(pre: Float[Tensor, "N B F"], cut: Float[Tensor, "N B"]) -> Entries:
    """The entries with pre > cut, the cut being the row's own."""
    return _compact(pre, _array(cut).reshape(-1))


def compact_by_feature(pre: Float[Tensor, "N B F"], cut: Float[Tensor, "N F"]) -> Entries:
    """The entries with pre > cut, the cut being the feature's own (JumpReLU's threshold)."""
    return _compact(pre, _array(cut))


def compact_top_k(pre: Float[Tensor, "N B F"], k: Int[Tensor, "N"]) -> Entries:
    """Of each row the k[n] largest positive values, or all where fewer are positive; of equals the lowest columns.

    One read of the row makes lane maxima, the k-th largest of which bounds the k-th largest value from below; what
    reaches the bound (little more than k entries) is compacted and searched exactly, by bisection on the floats' bits.
    """
    _, batch, features = pre.shape
    values, wanted = _array(pre).reshape(-1, features), np.clip(k.numpy(), 0, features).astype(np.int64)
    capacity = np.repeat(wanted, batch)
    places = np.concatenate([[0], np.cumsum(capacity)])
    counts = np.zeros(len(values), np.int64)
    columns, kept = np.empty(places[-1], np.int32), np.empty(places[-1], values.dtype)
    lanes, word = _lanes(wanted, features), _bits(values.dtype)
    _spread(_row_top_k, len(values), values, wanted, lanes, word, places, counts, columns, kept)
    if (counts == capacity).all():
        return Entries(*map(torch.from_numpy, (places, columns, kept)))
    starts = np.concatenate([[0], np.cumsum(counts)])
    packed = np.empty(starts[-1], np.int32), np.empty(starts[-1], values.dtype)
    _spread(_pack, len(values), places, starts, columns, kept, *packed)
    return Entries(*map(torch.from_numpy, (starts, *packed)))


def compact_batch_top_k(pre: Float[Tensor, "N B F"], k: Int[Tensor, "N"]) -> Entries:
    """Of each member's whole batch the k[n]·B largest positive values; of equals the lowest rows, then columns.

    A histogram of lane maxima bounds the threshold from below; bisection among the entries above the bound ends it.
    """
    members, batch, features = pre.shape
    values = _array(pre).reshape(-1, features)
    per_row = np.clip(k.numpy(), 0, features).astype(np.int64)
    wanted, word = per_row * batch, _bits(values.dtype)
    pieces = min(batch, 2 * torch.get_num_threads())
    histograms = np.zeros((members * pieces, 1 << HISTOGRAM_BITS), np.int32)
    lanes = _lanes(per_row, features)
    _spread(_lane_histogram, len(histograms), values, batch, pieces, lanes, word, histograms)
    at_least = histograms.reshape(members, pieces, -1).sum(1)[:, ::-1].cumsum(1)
    bins = (1 << HISTOGRAM_BITS) - 1 - np.array([np.searchsorted(*pair) for pair in zip(at_least, wanted, strict=True)])
    shift = word.itemsize * 8 - 1 - HISTOGRAM_BITS
    bounds = np.maximum(bins << shift, 1).astype(word)  # 1: all positives, where too few lanes are positive
    bounds[wanted == 0] = np.array(np.inf, values.dtype).view(word) + 1
    found = _compact(pre, np.repeat((bounds - 1).view(values.dtype), batch))
    starts, columns, kept = (_array(part) for part in found)
    ends = starts[::batch]
    if (np.diff(ends) <= wanted).all():
        return found
    thresholds, spare = np.empty(members, values.dtype), np.empty(members, np.int64)
    _spread(_member_threshold, members, kept, ends, wanted, bounds, thresholds, spare)
    above, equal = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    _spread(_count_above, len(values), starts, kept, batch, thresholds, above, equal)
    equal = equal.reshape(members, batch)
    before = np.cumsum(equal, 1) - equal
    quota = np.clip(spare[:, None] - before, 0, equal).reshape(-1)
    ends = np.concatenate([[0], np.cumsum(above + quota)])
    winners = np.empty(ends[-1], np.int32), np.empty(ends[-1], values.dtype)
    _spread(_keep_above, len(values), starts, columns, kept, batch, thresholds, quota, ends, *winners)
    return Entries(*map(torch.from_numpy, (ends, *winners)))


def decode(
    values: Float[Tensor, "E"],
    starts: Int64[Tensor, "starts"],
    columns: Int32[Tensor, "E"],
    W_dec: Float[Tensor, "NF D"],
    bias: Float[Tensor, "N D"],
) -> Float[Tensor, "R D"]:
    """Σ values · W_dec[columns] + bias, per row."""
    decoded = bias.detach().repeat_interleave((len(starts) - 1) // len(bias), 0)
    _spread(_decode, len(decoded), *map(_array, (values, starts, columns, W_dec, decoded)))
    return decoded


def decode_error(
    values: Float[Tensor, "E"],
    starts: Int64[Tensor, "starts"],
    columns: Int32[Tensor, "E"],
    W_dec: Float[Tensor, "NF D"],
    bias: Float[Tensor, "N D"],
    targets: Float[Tensor, "B D"],
    base: Float[Tensor, "R D"] | None = None,
) -> tuple[Float[Tensor, "R D"], Float[Tensor, "E"]]:
    """The error decode + bias + base − targets [R, D], and each entry's slope error_r · W_dec[column].

    One visit per row, while its decoder rows are in cache. `base` is what another path adds to the reconstruction (a
    skip connection). For a loss Σ‖error‖²/2 the slopes are the gradients of the activations.
    """
    rows = len(starts) - 1
    error, slope = targets.new_empty(rows, targets.shape[1]), torch.empty_like(values)
    arrays = [_array(part) for part in (values, starts, columns, W_dec, bias, targets)]
    added = np.empty((0, 0), arrays[0].dtype) if base is None else _array(base)
    _spread(_decode_error, rows, *arrays, added, _array(error), _array(slope))
    return error, slope


def slopes(
    gradient: Float[Tensor, "R D"],
    starts: Int64[Tensor, "starts"],
    columns: Int32[Tensor, "E"],
    W_dec: Float[Tensor, "NF D"],
) -> Float[Tensor, "E"]:
    """gradient_r · W_dec[column] of each entry: what a gradient of the reconstructions means for the activations."""
    found = gradient.new_empty(len(columns))
    _spread(_slopes, len(gradient), *map(_array, (gradient, starts, columns, W_dec, found)))
    return found


def transpose(starts: Int64[Tensor, "starts"], columns: Int32[Tensor, "E"], features: int) -> Transposed:
    """The entries by column, `features` = N·F of them, from a counting sort."""
    pieces = min(max(len(starts) - 1, 1), torch.get_num_threads())
    places = np.zeros((pieces, features), np.int64)
    feature_starts = torch.empty(features + 1, dtype=torch.int64)
    rows, order = torch.empty_like(columns), torch.empty_like(columns)
    _spread(_count_columns, pieces, _array(starts), _array(columns), places)
    _column_places(places, _array(feature_starts))
    _spread(_place_entries, pieces, _array(starts), _array(columns), places, _array(rows), _array(order))
    return Transposed(feature_starts, rows, order)


def weight_gradient(
    weights: Float[Tensor, "E"],
    feature_starts: Int64[Tensor, "ends"],
    rows: Int32[Tensor, "E"],
    order: Int32[Tensor, "E"],
    dense: Float[Tensor, "rows D"],
    out: Float[Tensor, "NF D"] | None = None,
) -> Float[Tensor, "NF D"]:
    """Of each column the sum of weight · dense[row], zero without entries; `weights` are in CSR order.

    `dense` has R rows (the error, for the decoder's gradient) or the B rows that all members share (the inputs, for
    the encoder's).
    """
    if out is None:
        out = dense.new_empty(len(feature_starts) - 1, dense.shape[1])
    arrays = map(_array, (weights, feature_starts, rows, order, dense, out))
    _spread(_weight_gradient, len(out), *arrays)
    return out


def column_sums(
    weights: Float[Tensor, "E"], feature_starts: Int64[Tensor, "ends"], order: Int32[Tensor, "E"]
) -> Float[Tensor, "NF"]:
    """Of each column the sum of its weights (given in CSR order): the gradient of a bias."""
    sums = weights.new_empty(len(feature_starts) - 1)
    _spread(_column_sums, len(sums), *map(_array, (weights, feature_starts, order, sums)))
    return sums


def sum_of_squares(
    g: Float[Tensor, "*rows D"], members: int = 1, unit_rows: Float[Tensor, "*rows D"] | None = None
) -> Float64[Tensor, "N"]:
    """Σ g² of each member, without g's part along the rows of `unit_rows` (of norm 1) if these are given."""
    rows = _rows(g)
    squares = np.empty(len(rows), np.float64)
    _spread(_squares, len(rows), rows, rows[:0] if unit_rows is None else _rows(unit_rows), squares)
    return torch.from_numpy(squares.reshape(members, -1).sum(1))


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
    step: int,
    scale: float | Float[Tensor, "N"] = 1.0,
    unit_rows: bool = False,
) -> None:
    """torch.optim.Adam's update number `step` (from 1) of w, m and v in place, in one pass over memory.

    The gradient is multiplied by `scale` (the coefficient of clipping). `unit_rows`: rows of w, which have norm 1,
    lose the gradient's part along them before the moments see it, and are brought back to norm 1 after the update.
    `lr` and `scale` may differ per member, w then being the N members' rows one after another. g is left as it is.
    """
    arrays = [_rows(part) for part in (w, g, m, v)]
    real = arrays[0].dtype
    rate, factor = np.broadcast_arrays(*(np.atleast_1d(np.asarray(part, np.float64)) for part in (lr, scale)))
    step_size, factor = (rate / (1 - beta1**step)).astype(real), factor.astype(real)
    constants = [real.type(part) for part in (1 - beta1, beta2, 1 - beta2, 1 / (1 - beta2**step) ** 0.5, eps)]
    _spread(_adam, len(arrays[0]), *arrays, step_size, factor, *constants, unit_rows)


# ---- threads ----

_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def _spread(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """kernel(low, high, *arguments) over all of range(count), in pieces, on torch.get_num_threads() threads."""
    global _pool
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    bounds = [count * i // (threads * PIECES_PER_THREAD) for i in range(threads * PIECES_PER_THREAD + 1)]
    pieces = iter([(low, high) for low, high in itertools.pairwise(bounds) if low < high])

    def work() -> None:
        for low, high in pieces:
            kernel(low, high, *arguments)

    _pool = _pool or ThreadPoolExecutor(os.cpu_count(), "kernels")
    helpers = [_pool.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            if not helper.cancel():  # one that has not begun has nothing left to do
                helper.result()


# ---- arrays ----


def _array(tensor: Tensor) -> NDArray[Any]:
    """The tensor's memory."""
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(f"CPU kernels take contiguous tensors in main memory, got {tensor.device} {tensor.stride()}")
    return tensor.detach().numpy()


def _rows(tensor: Tensor) -> NDArray[Any]:
    """The tensor's memory as a matrix whose rows are the last axis."""
    return _array(tensor).reshape(-1, tensor.shape[-1])


def _bits(real: np.dtype) -> np.dtype:
    """The integers that order as positive floats of this type do."""
    return np.dtype(f"i{real.itemsize}")


def _lanes(k: NDArray[np.int64], features: int) -> int:
    """How many maxima a row is folded into."""
    return min(features, -(-LANES_PER_WINNER * int(k.max(initial=1)) // WORD) * WORD)


def _compact(pre: Tensor, cut: NDArray[Any]) -> Entries:
    """pre > cut, `cut` being [rows] or [N, F]: a bit mask and counts in one read, then the entries where bits are."""
    _, batch, features = pre.shape
    values = _array(pre).reshape(-1, features)
    masks = np.empty((len(values), -(-features // WORD)), np.uint32)
    starts = np.zeros(len(values) + 1, np.int64)
    _spread(_mask_rows if cut.ndim == 1 else _mask_features, len(values), values, cut, batch, masks, starts[1:])
    np.cumsum(starts, out=starts)
    columns, kept = np.empty(starts[-1], np.int32), np.empty(starts[-1], values.dtype)
    _spread(_gather, len(values), values, batch, masks, starts, columns, kept)
    return Entries(*map(torch.from_numpy, (starts, columns, kept)))


# ---- kernels: each does the rows (or columns, or pieces) low..high ----


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at the first call of each type; kept on disk unless no folder for that can be written."""
    function = inspect.unwrap(function)  # a checker of annotations may stand around it, which numba cannot compile
    options: dict[str, Any] = {"nogil": True, "fastmath": REORDERED_SUMS, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no writable folder
        return numba.njit(**options)(function)


def _intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose LLVM code is written by hand."""
    return intrinsic(inspect.unwrap(function))


def _load_word(context, builder, array_type, array, place):
    """LLVM's <32 x real> at flat position `place` of a contiguous array."""
    vector = ir.VectorType(context.get_data_type(array_type.dtype), WORD)
    data = context.make_array(array_type)(context, builder, array).data
    pointer = builder.bitcast(builder.gep(data, [place]), vector.as_pointer())
    return builder.load(pointer, align=array_type.dtype.bitwidth // 8)


@_intrinsic
def _bits_above(typing_context, values, place, cut):
    """A word whose bit j is values.flat[place + j] > cut: whole vectors compared, which LLVM makes of no loop."""

    def code(context, builder, signature, arguments):
        vector = _load_word(context, builder, signature.args[0], *arguments[:2])
        blank, lane = ir.Constant(vector.type, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        one = builder.insert_element(blank, arguments[2], lane)
        every = builder.shuffle_vector(one, blank, ir.Constant(ir.VectorType(lane.type, WORD), [0] * WORD))
        return builder.bitcast(builder.fcmp_ordered(">", vector, every), ir.IntType(WORD))

    return types.uint32(values, types.intp, values.dtype), code


@_intrinsic
def _bits_above_each(typing_context, values, place, cuts, cut_place):
    """A word whose bit j is values.flat[place + j] > cuts.flat[cut_place + j]."""

    def code(context, builder, signature, arguments):
        vector = _load_word(context, builder, signature.args[0], *arguments[:2])
        others = _load_word(context, builder, signature.args[2], *arguments[2:])
        return builder.bitcast(builder.fcmp_ordered(">", vector, others), ir.IntType(WORD))

    return types.uint32(values, types.intp, cuts, types.intp), code


@_intrinsic
def _popcount(typing_context, bits):
    return bits(bits), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


@_intrinsic
def _first_bit(typing_context, bits):
    """The number of the lowest bit set."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return bits(bits), code


@_compiled
def _word_above(values, r, first, cut):
    width = values.shape[1]
    if first + WORD <= width:
        return _bits_above(values, r * width + first, cut)
    bits = np.uint32(0)
    for j in range(width - first):
        bits |= np.uint32(values[r, first + j] > cut) << np.uint32(j)
    return bits


@_compiled
def _word_above_each(values, r, first, cuts, n):
    width = values.shape[1]
    if first + WORD <= width:
        return _bits_above_each(values, r * width + first, cuts, n * width + first)
    bits = np.uint32(0)
    for j in range(width - first):
        bits |= np.uint32(values[r, first + j] > cuts[n, first + j]) << np.uint32(j)
    return bits


@_compiled
def _mask_rows(low, high, values, cut, batch, masks, counts):
    for r in range(low, high):
        count = 0
        for word in range(masks.shape[1]):
            masks[r, word] = _word_above(values, r, word * WORD, cut[r])
            count += _popcount(masks[r, word])
        counts[r] = count


@_compiled
def _mask_features(low, high, values, cut, batch, masks, counts):
    for r in range(low, high):
        count = 0
        for word in range(masks.shape[1]):
            masks[r, word] = _word_above_each(values, r, word * WORD, cut, r // batch)
            count += _popcount(masks[r, word])
        counts[r] = count


@_compiled
def _gather(low, high, values, batch, masks, starts, columns, kept):
    for r in range(low, high):
        place, shift = starts[r], (r // batch) * values.shape[1]
        for word in range(masks.shape[1]):
            bits = masks[r, word]
            while bits:
                column = word * WORD + _first_bit(bits)
                columns[place] = shift + column
                kept[place] = values[r, column]
                place += 1
                bits &= bits - np.uint32(1)


@_compiled
def _bisect(values, count, k, slack, low, high, word):
    """The bits of a threshold that k to k + slack of the first `count` values reach (low, if fewer than k reach it).

    `word` is one integer of scratch, of the values' size. If no threshold lets so few pass, equal values straddle the
    k-th place, and theirs is returned.
    """
    while low < high:
        middle = low + (high - low + 1) // 2
        word[0] = middle
        threshold = word.view(values.dtype)[0]
        reach = np.int32(0)
        for i in range(count):
            reach += np.int32(values[i] >= threshold)
        if reach >= k:
            low = middle
            if reach <= k + slack:
                break
        else:
            high = middle - 1
    return low


@_compiled
def _fold(row, maxima):
    """Lane maxima of the row's positive values, 0 where there is none: lane j holds the columns j, j + lanes, ..."""
    lanes = len(maxima)
    maxima[:] = 0
    first = 0
    while first + lanes <= len(row):
        for j in range(lanes):
            maxima[j] = row[first + j] if row[first + j] > maxima[j] else maxima[j]
        first += lanes
    for j in range(len(row) - first):
        maxima[j] = row[first + j] if row[first + j] > maxima[j] else maxima[j]


@_compiled
def _row_top_k(low, high, values, wanted, lanes, word, places, counts, columns, kept):
    rows, features = values.shape
    batch = rows // len(wanted)
    maxima = np.empty(lanes, values.dtype)
    candidates, candidate_columns = np.empty(features, values.dtype), np.empty(features, np.int32)
    top = np.empty(1, values.dtype)
    top_bits = top.view(word)
    for r in range(low, high):
        k, shift, place = wanted[r // batch], (r // batch) * features, places[r]
        _fold(values[r], maxima)
        top[0] = maxima.max()
        if k == 0 or top[0] == 0:
            continue
        highest = top_bits[0]
        bound = _bisect(maxima, lanes, k, k // 8, 1, highest, top_bits)
        top_bits[0] = bound - 1
        cut = top[0]
        count = 0
        for first in range(0, features, WORD):
            bits = _word_above(values, r, first, cut)
            while bits:
                column = first + _first_bit(bits)
                candidate_columns[count] = column
                candidates[count] = values[r, column]
                count += 1
                bits &= bits - np.uint32(1)
        top_bits[0] = bound if count <= k else _bisect(candidates, count, k, 0, bound, highest, top_bits)
        threshold = top[0]
        spare = k
        for i in range(count):
            spare -= candidates[i] > threshold
        for i in range(count):
            equal = candidates[i] == threshold
            if candidates[i] > threshold or (equal and spare > 0):
                columns[place] = shift + candidate_columns[i]
                kept[place] = candidates[i]
                place += 1
                spare -= equal
        counts[r] = place - places[r]


@_compiled
def _pack(low, high, places, starts, columns, kept, packed_columns, packed):
    for r in range(low, high):
        for i in range(starts[r + 1] - starts[r]):
            packed_columns[starts[r] + i] = columns[places[r] + i]
            packed[starts[r] + i] = kept[places[r] + i]


@_compiled
def _lane_histogram(low, high, values, batch, pieces, lanes, word, histograms):
    maxima = np.empty(lanes, values.dtype)
    bits = maxima.view(word)
    shift = bits.itemsize * 8 - 1 - HISTOGRAM_BITS
    for piece in range(low, high):
        member, part = piece // pieces, piece % pieces
        for b in range(batch * part // pieces, batch * (part + 1) // pieces):
            _fold(values[member * batch + b], maxima)
            for j in range(lanes):
                if bits[j] > 0:
                    histograms[piece, bits[j] >> shift] += 1


@_compiled
def _member_threshold(low, high, kept, ends, wanted, bounds, thresholds, spare):
    for member in range(low, high):
        values = kept[ends[member] : ends[member + 1]]
        top = np.zeros(1, values.dtype)
        top_bits = top.view(bounds.dtype)
        for value in values:  # all above 0: a compaction lets no NaN pass
            top[0] = max(top[0], value)
        highest = top_bits[0]
        if len(values) <= wanted[member]:
            top_bits[0] = bounds[member]
        else:
            top_bits[0] = _bisect(values, len(values), wanted[member], 0, bounds[member], highest, top_bits)
        thresholds[member] = top[0]
        above = 0
        for value in values:
            above += value > top[0]
        spare[member] = wanted[member] - above


@_compiled
def _count_above(low, high, starts, kept, batch, thresholds, above, equal):
    for r in range(low, high):
        threshold = thresholds[r // batch]
        above[r], equal[r] = 0, 0
        for i in range(starts[r], starts[r + 1]):
            above[r] += kept[i] > threshold
            equal[r] += kept[i] == threshold


@_compiled
def _keep_above(low, high, starts, columns, kept, batch, thresholds, quota, ends, winner_columns, winners):
    for r in range(low, high):
        threshold, spare, place = thresholds[r // batch], quota[r], ends[r]
        for i in range(starts[r], starts[r + 1]):
            equal = kept[i] == threshold
            if kept[i] > threshold or (equal and spare > 0):
                winner_columns[place] = columns[i]
                winners[place] = kept[i]
                place += 1
                spare -= equal


@_compiled
def _add_rows(total, values, columns, matrix, start, end):
    """total += Σ values[i] · matrix[columns[i]], four rows at a time, so that total is read and written less often."""
    for i in range(start, end - 3, 4):
        a, b, c, d = values[i], values[i + 1], values[i + 2], values[i + 3]
        A, B, C, D = matrix[columns[i]], matrix[columns[i + 1]], matrix[columns[i + 2]], matrix[columns[i + 3]]
        for j in range(len(total)):
            total[j] += (a * A[j] + b * B[j]) + (c * C[j] + d * D[j])
    for i in range(end - (end - start) % 4, end):
        a, A = values[i], matrix[columns[i]]
        for j in range(len(total)):
            total[j] += a * A[j]


@_compiled
def _row_slopes(vector, columns, matrix, start, end, found):
    for i in range(start, end - 3, 4):
        A, B, C, D = matrix[columns[i]], matrix[columns[i + 1]], matrix[columns[i + 2]], matrix[columns[i + 3]]
        a = b = c = d = matrix.dtype.type(0)
        for j in range(len(vector)):
            a += vector[j] * A[j]
            b += vector[j] * B[j]
            c += vector[j] * C[j]
            d += vector[j] * D[j]
        found[i], found[i + 1], found[i + 2], found[i + 3] = a, b, c, d
    for i in range(end - (end - start) % 4, end):
        A = matrix[columns[i]]
        a = matrix.dtype.type(0)
        for j in range(len(vector)):
            a += vector[j] * A[j]
        found[i] = a


@_compiled
def _decode(low, high, values, starts, columns, matrix, decoded):
    for r in range(low, high):
        _add_rows(decoded[r], values, columns, matrix, starts[r], starts[r + 1])


@_compiled
def _decode_error(low, high, values, starts, columns, matrix, bias, targets, base, error, found):
    batch = len(targets)
    for r in range(low, high):
        total, target, start = error[r], targets[r % batch], bias[r // batch]
        for j in range(len(total)):
            total[j] = start[j] - target[j]
        if len(base):
            for j in range(len(total)):
                total[j] += base[r, j]
        _add_rows(total, values, columns, matrix, starts[r], starts[r + 1])
        _row_slopes(total, columns, matrix, starts[r], starts[r + 1], found)


@_compiled
def _slopes(low, high, gradient, starts, columns, matrix, found):
    for r in range(low, high):
        _row_slopes(gradient[r], columns, matrix, starts[r], starts[r + 1], found)


@_compiled
def _count_columns(low, high, starts, columns, places):
    rows = len(starts) - 1
    for piece in range(low, high):
        first, last = rows * piece // len(places), rows * (piece + 1) // len(places)
        for i in range(starts[first], starts[last]):
            places[piece, columns[i]] += 1


@_compiled
def _column_places(places, feature_starts):
    """Counts per piece and column become the place where the piece's first entry of the column goes."""
    place = 0
    for c in range(places.shape[1]):
        feature_starts[c] = place
        for piece in range(len(places)):
            count = places[piece, c]
            places[piece, c] = place
            place += count
    feature_starts[places.shape[1]] = place


@_compiled
def _place_entries(low, high, starts, columns, places, rows, order):
    count = len(starts) - 1
    for piece in range(low, high):
        for r in range(count * piece // len(places), count * (piece + 1) // len(places)):
            for i in range(starts[r], starts[r + 1]):
                place = places[piece, columns[i]]
                places[piece, columns[i]] = place + 1
                rows[place] = r
                order[place] = i


@_compiled
def _weight_gradient(low, high, weights, feature_starts, rows, order, dense, out):
    count = len(dense)
    for c in range(low, high):
        total, start, end = out[c], feature_starts[c], feature_starts[c + 1]
        total[:] = 0
        for i in range(start, end - 3, 4):
            w, x = weights[order[i]], weights[order[i + 1]]
            y, z = weights[order[i + 2]], weights[order[i + 3]]
            W, X = dense[rows[i] % count], dense[rows[i + 1] % count]
            Y, Z = dense[rows[i + 2] % count], dense[rows[i + 3] % count]
            for j in range(len(total)):
                total[j] += (w * W[j] + x * X[j]) + (y * Y[j] + z * Z[j])
        for i in range(end - (end - start) % 4, end):
            w, W = weights[order[i]], dense[rows[i] % count]
            for j in range(len(total)):
                total[j] += w * W[j]


@_compiled
def _column_sums(low, high, weights, feature_starts, order, sums):
    for c in range(low, high):
        total = weights.dtype.type(0)
        for i in range(feature_starts[c], feature_starts[c + 1]):
            total += weights[order[i]]
        sums[c] = total


@_compiled
def _along(g, w):
    """How many times w the part of g along w is; rows that are nearly, or not yet, of norm 1 are treated exactly."""
    total, square = g.dtype.type(0), g.dtype.type(0)
    for j in range(len(g)):
        total += g[j] * w[j]
        square += w[j] * w[j]
    return total / square if square > 0 else total


@_compiled
def _norm(w):
    square = w.dtype.type(0)
    for j in range(len(w)):
        square += w[j] * w[j]
    return np.sqrt(square)


@_compiled
def _squares(low, high, gradient, unit_rows, squares):
    for r in range(low, high):
        g = gradient[r]
        total = gradient.dtype.type(0)
        if len(unit_rows):
            w = unit_rows[r]
            along = _along(g, w)
            for j in range(len(g)):
                total += (g[j] - along * w[j]) * (g[j] - along * w[j])
        else:
            for j in range(len(g)):
                total += g[j] * g[j]
        squares[r] = total


@_compiled
def _adam(low, high, W, G, M, V, step_size, scale, rest1, beta2, rest2, inverse_correction, eps, unit_rows):
    per_member = len(W) // len(scale)
    for r in range(low, high):
        w, g, m, v = W[r], G[r], M[r], V[r]
        size, factor = step_size[r // per_member], scale[r // per_member]
        along = _along(g, w) if unit_rows else W.dtype.type(0)
        for j in range(len(w)):
            slope = (g[j] - along * w[j]) * factor
            m[j] += rest1 * (slope - m[j])
            v[j] = beta2 * v[j] + rest2 * slope * slope
            w[j] -= size * m[j] / (np.sqrt(v[j]) * inverse_correction + eps)
        if unit_rows:
            norm = _norm(w)
            if norm > 0:
                for j in range(len(w)):
                    w[j] /= norm
