"""The sparse training step on a CPU: numba kernels over the active entries, on torch tensors without copies.

Layout. `pre` [N, B, F] are pre-activations of N dictionaries; row r = n·B + b, column c = n·F + f. The active entries
are in CSR (`Entries`), columns ascending inside a row; `transpose` gives the same entries in CSC. Everything takes
float32 and float64, and records nothing for autograd.

Every row (or column) is summed by one thread in a fixed order, so that no result depends on the number of threads.
The kernels themselves are in `choosing` and `walking`.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int32, Int64
from numpy.typing import NDArray
from torch import Tensor

from saes.kernels import choosing, walking
from saes.kernels.choosing import HISTOGRAM_BITS, WORD
from saes.kernels.compiling import spread

LANES_PER_WINNER = 8  # the k-th largest value is bounded by the k-th largest of so many times k lane maxima


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
    spread(choosing.row_top_k, len(values), values, wanted, lanes, word, places, counts, columns, kept)
    if (counts == capacity).all():
        return Entries(*map(torch.from_numpy, (places, columns, kept)))
    starts = np.concatenate([[0], np.cumsum(counts)])
    packed = np.empty(starts[-1], np.int32), np.empty(starts[-1], values.dtype)
    spread(choosing.pack, len(values), places, starts, columns, kept, *packed)
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
    spread(choosing.lane_histogram, len(histograms), values, batch, pieces, lanes, word, histograms)
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
    spread(choosing.member_threshold, members, kept, ends, wanted, bounds, thresholds, spare)
    above, equal = np.empty(len(values), np.int64), np.empty(len(values), np.int64)
    spread(choosing.count_above, len(values), starts, kept, batch, thresholds, above, equal)
    equal = equal.reshape(members, batch)
    before = np.cumsum(equal, 1) - equal
    quota = np.clip(spare[:, None] - before, 0, equal).reshape(-1)
    ends = np.concatenate([[0], np.cumsum(above + quota)])
    winners = np.empty(ends[-1], np.int32), np.empty(ends[-1], values.dtype)
    spread(choosing.keep_above, len(values), starts, columns, kept, batch, thresholds, quota, ends, *winners)
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
    spread(walking.decode, len(decoded), *map(_array, (values, starts, columns, W_dec, decoded)))
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
    spread(walking.decode_error, rows, *arrays, added, _array(error), _array(slope))
    return error, slope


def slopes(
    gradient: Float[Tensor, "R D"],
    starts: Int64[Tensor, "starts"],
    columns: Int32[Tensor, "E"],
    W_dec: Float[Tensor, "NF D"],
) -> Float[Tensor, "E"]:
    """gradient_r · W_dec[column] of each entry: what a gradient of the reconstructions means for the activations."""
    found = gradient.new_empty(len(columns))
    spread(walking.slopes, len(gradient), *map(_array, (gradient, starts, columns, W_dec, found)))
    return found


def transpose(starts: Int64[Tensor, "starts"], columns: Int32[Tensor, "E"], features: int) -> Transposed:
    """The entries by column, `features` = N·F of them, from a counting sort."""
    pieces = min(max(len(starts) - 1, 1), torch.get_num_threads())
    places = np.zeros((pieces, features), np.int64)
    feature_starts = torch.empty(features + 1, dtype=torch.int64)
    rows, order = torch.empty_like(columns), torch.empty_like(columns)
    spread(walking.count_columns, pieces, _array(starts), _array(columns), places)
    walking.column_places(places, _array(feature_starts))
    spread(walking.place_entries, pieces, _array(starts), _array(columns), places, _array(rows), _array(order))
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
    spread(walking.weight_gradient, len(out), *arrays)
    return out


def column_sums(
    weights: Float[Tensor, "E"], feature_starts: Int64[Tensor, "ends"], order: Int32[Tensor, "E"]
) -> Float[Tensor, "NF"]:
    """Of each column the sum of its weights (given in CSR order): the gradient of a bias."""
    sums = weights.new_empty(len(feature_starts) - 1)
    spread(walking.column_sums, len(sums), *map(_array, (weights, feature_starts, order, sums)))
    return sums


def sum_of_squares(
    g: Float[Tensor, "*rows D"], members: int = 1, unit_rows: Float[Tensor, "*rows D"] | None = None
) -> Float64[Tensor, "N"]:
    """Σ g² of each member, without g's part along the rows of `unit_rows` (of norm 1) if these are given."""
    rows = _rows(g)
    squares = np.empty(len(rows), np.float64)
    spread(walking.squares, len(rows), rows, rows[:0] if unit_rows is None else _rows(unit_rows), squares)
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
    spread(walking.adam, len(arrays[0]), *arrays, step_size, factor, *constants, unit_rows)


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
    spread(
        choosing.mask_rows if cut.ndim == 1 else choosing.mask_features,
        len(values),
        values,
        cut,
        batch,
        masks,
        starts[1:],
    )
    np.cumsum(starts, out=starts)
    columns, kept = np.empty(starts[-1], np.int32), np.empty(starts[-1], values.dtype)
    spread(choosing.gather, len(values), values, batch, masks, starts, columns, kept)
    return Entries(*map(torch.from_numpy, (starts, columns, kept)))
