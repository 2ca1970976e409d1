"""Kernels that choose entries, each doing rows (or pieces) low..high: above a cut, the top k, the top k of a batch.

Choosing is two reads of the pre-activations: a word of bits for every WORD of them and counts, then the entries where
bits are set. The k-th largest value is found by bisection over the bits of floats, among the few values that exceed a
bound from lane maxima.
"""

import numpy as np
from llvmlite import ir
from numba import types

from saes.kernels.compiling import compiled, compiled_intrinsic

WORD = 32  # entries that share one word of the bit mask
HISTOGRAM_BITS = 15


def _load_word(context, builder, array_type, array, place):
    """LLVM's <32 x real> at flat position `place` of a contiguous array."""
    vector = ir.VectorType(context.get_data_type(array_type.dtype), WORD)
    data = context.make_array(array_type)(context, builder, array).data
    pointer = builder.bitcast(builder.gep(data, [place]), vector.as_pointer())
    return builder.load(pointer, align=array_type.dtype.bitwidth // 8)


@compiled_intrinsic
def _bits_above(typing_context, values, place, cut):
    """A word whose bit j is values.flat[place + j] > cut: whole vectors compared, which LLVM makes of no loop."""

    def code(context, builder, signature, arguments):
        vector = _load_word(context, builder, signature.args[0], *arguments[:2])
        blank, lane = ir.Constant(vector.type, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        one = builder.insert_element(blank, arguments[2], lane)
        every = builder.shuffle_vector(one, blank, ir.Constant(ir.VectorType(lane.type, WORD), [0] * WORD))
        return builder.bitcast(builder.fcmp_ordered(">", vector, every), ir.IntType(WORD))

    return types.uint32(values, types.intp, values.dtype), code


@compiled_intrinsic
def _bits_above_each(typing_context, values, place, cuts, cut_place):
    """A word whose bit j is values.flat[place + j] > cuts.flat[cut_place + j]."""

    def code(context, builder, signature, arguments):
        vector = _load_word(context, builder, signature.args[0], *arguments[:2])
        others = _load_word(context, builder, signature.args[2], *arguments[2:])
        return builder.bitcast(builder.fcmp_ordered(">", vector, others), ir.IntType(WORD))

    return types.uint32(values, types.intp, cuts, types.intp), code


@compiled_intrinsic
def _popcount(typing_context, bits):
    return bits(bits), lambda context, builder, signature, arguments: builder.ctpop(arguments[0])


@compiled_intrinsic
def _first_bit(typing_context, bits):
    """The number of the lowest bit set."""

    def code(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return bits(bits), code


@compiled
def _word_above(values, r, first, cut):
    width = values.shape[1]
    if first + WORD <= width:
        return _bits_above(values, r * width + first, cut)
    bits = np.uint32(0)
    for j in range(width - first):
        bits |= np.uint32(values[r, first + j] > cut) << np.uint32(j)
    return bits


@compiled
def _word_above_each(values, r, first, cuts, n):
    width = values.shape[1]
    if first + WORD <= width:
        return _bits_above_each(values, r * width + first, cuts, n * width + first)
    bits = np.uint32(0)
    for j in range(width - first):
        bits |= np.uint32(values[r, first + j] > cuts[n, first + j]) << np.uint32(j)
    return bits


@compiled
def mask_rows(low, high, values, cut, batch, masks, counts):
    for r in range(low, high):
        count = 0
        for word in range(masks.shape[1]):
            masks[r, word] = _word_above(values, r, word * WORD, cut[r])
            count += _popcount(masks[r, word])
        counts[r] = count


@compiled
def mask_features(low, high, values, cut, batch, masks, counts):
    for r in range(low, high):
        count = 0
        for word in range(masks.shape[1]):
            masks[r, word] = _word_above_each(values, r, word * WORD, cut, r // batch)
            count += _popcount(masks[r, word])
        counts[r] = count


@compiled
def gather(low, high, values, batch, masks, starts, columns, kept):
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


@compiled
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


@compiled
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


@compiled
def row_top_k(low, high, values, wanted, lanes, word, places, counts, columns, kept):
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


@compiled
def pack(low, high, places, starts, columns, kept, packed_columns, packed):
    for r in range(low, high):
        for i in range(starts[r + 1] - starts[r]):
            packed_columns[starts[r] + i] = columns[places[r] + i]
            packed[starts[r] + i] = kept[places[r] + i]


@compiled
def lane_histogram(low, high, values, batch, pieces, lanes, word, histograms):
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


@compiled
def member_threshold(low, high, kept, ends, wanted, bounds, thresholds, spare):
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


@compiled
def count_above(low, high, starts, kept, batch, thresholds, above, equal):
    for r in range(low, high):
        threshold = thresholds[r // batch]
        above[r], equal[r] = 0, 0
        for i in range(starts[r], starts[r + 1]):
            above[r] += kept[i] > threshold
            equal[r] += kept[i] == threshold


@compiled
def keep_above(low, high, starts, columns, kept, batch, thresholds, quota, ends, winner_columns, winners):
    for r in range(low, high):
        threshold, spare, place = thresholds[r // batch], quota[r], ends[r]
        for i in range(starts[r], starts[r + 1]):
            equal = kept[i] == threshold
            if kept[i] > threshold or (equal and spare > 0):
                winner_columns[place] = columns[i]
                winners[place] = kept[i]
                place += 1
                spare -= equal
