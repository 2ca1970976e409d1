"""Kernels that walk chosen entries, each doing rows (or columns, or pieces) low..high: products, sums, and Adam."""

import numpy as np

from saes.kernels.compiling import compiled


@compiled
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


@compiled
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


@compiled
def decode(low, high, values, starts, columns, matrix, decoded):
    for r in range(low, high):
        _add_rows(decoded[r], values, columns, matrix, starts[r], starts[r + 1])


@compiled
def decode_error(low, high, values, starts, columns, matrix, bias, targets, base, error, found):
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


@compiled
def slopes(low, high, gradient, starts, columns, matrix, found):
    for r in range(low, high):
        _row_slopes(gradient[r], columns, matrix, starts[r], starts[r + 1], found)


@compiled
def count_columns(low, high, starts, columns, places):
    rows = len(starts) - 1
    for piece in range(low, high):
        first, last = rows * piece // len(places), rows * (piece + 1) // len(places)
        for i in range(starts[first], starts[last]):
            places[piece, columns[i]] += 1


@compiled
def column_places(places, feature_starts):
    """Counts per piece and column become the place where the piece's first entry of the column goes."""
    place = 0
    for c in range(places.shape[1]):
        feature_starts[c] = place
        for piece in range(len(places)):
            count = places[piece, c]
            places[piece, c] = place
            place += count
    feature_starts[places.shape[1]] = place


@compiled
def place_entries(low, high, starts, columns, places, rows, order):
    count = len(starts) - 1
    for piece in range(low, high):
        for r in range(count * piece // len(places), count * (piece + 1) // len(places)):
            for i in range(starts[r], starts[r + 1]):
                place = places[piece, columns[i]]
                places[piece, columns[i]] = place + 1
                rows[place] = r
                order[place] = i


@compiled
def weight_gradient(low, high, weights, feature_starts, rows, order, dense, out):
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


@compiled
def column_sums(low, high, weights, feature_starts, order, sums):
    for c in range(low, high):
        total = weights.dtype.type(0)
        for i in range(feature_starts[c], feature_starts[c + 1]):
            total += weights[order[i]]
        sums[c] = total


@compiled
def _along(g, w):
    """How many times w the part of g along w is; rows that are nearly, or not yet, of norm 1 are treated exactly."""
    total, square = g.dtype.type(0), g.dtype.type(0)
    for j in range(len(g)):
        total += g[j] * w[j]
        square += w[j] * w[j]
    return total / square if square > 0 else total


@compiled
def _norm(w):
    square = w.dtype.type(0)
    for j in range(len(w)):
        square += w[j] * w[j]
    return np.sqrt(square)


@compiled
def squares(low, high, gradient, unit_rows, squares):
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


@compiled
def adam(low, high, W, G, M, V, step_size, scale, rest1, beta2, rest2, inverse_correction, eps, unit_rows):
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
