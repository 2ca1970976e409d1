"""What moves at a site between its clean and its patch state, feature by feature, without a dense [batch, F] in sight.

Only features that are active in one of the two states (or whose activation function has a slope at the clean one) have
an entry: for a dictionary of 32,768 features with 100 active that is half a per cent of them. Encoding is dense, a few
rows at a time.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from circuits.feature_acts import FeatureActs
from saes.dictionary import Dictionary

Slope = Literal["secant", "clean"]
EndPoint = Tensor | FeatureActs  # a site's tensor, or features and error that broadcast over [batch, length]

_DENSE = 1 << 23  # pre-activations that are held at once
_GATHERED = 1 << 23  # numbers of decoder rows that are gathered at once


@dataclass(frozen=True)
class Moves:
    """The entries of one site, in the order of their rows, and its error node.

    row = example * length + position. `change` is patch less clean, `slope` the derivative of a feature with respect
    to its pre-activation: at the clean point, or the secant between clean and patch.
    """

    row: Int[Tensor, " entries"]
    feature: Int[Tensor, " entries"]
    change: Float[Tensor, " entries"]
    slope: Float[Tensor, " entries"]
    error: Float[Tensor, "batch length d"]
    """change of the error"""
    shift: Float[Tensor, "batch length d"]
    """change of the site's tensor"""

    def from_position(self, start: int) -> "Moves":
        """The same with all before a position left where it is."""
        if not start:
            return self
        length = self.error.shape[1]
        kept = self.row % length >= start
        later = (torch.arange(length, device=self.error.device) >= start).to(self.error)[:, None]
        return Moves(
            self.row[kept],
            self.feature[kept],
            self.change[kept],
            self.slope[kept],
            self.error * later,
            self.shift * later,
        )

    def dot_rows(self, at_rows: Float[Tensor, "rows d"], weights: Float[Tensor, "f d"]) -> Float[Tensor, " entries"]:
        """at_rows[row] . weights[feature] of every entry."""
        if 4 * len(self.row) > len(at_rows) * len(weights):  # dense features, such as neurons
            return (at_rows @ weights.T)[self.row, self.feature]
        parts = zip(self.row.split(_pieces(weights)), self.feature.split(_pieces(weights)), strict=True)
        found = [torch.einsum("nd,nd->n", at_rows[row], weights[feature]) for row, feature in parts]
        return torch.cat(found) if found else at_rows.new_zeros(0)

    def of_features(self, features: Int[Tensor, " chosen"], values: Float[Tensor, " entries"]) -> Tensor:
        """[chosen, batch, length]: the values of some features (all different), 0 where they have no entry."""
        batch, length = self.error.shape[:2]
        order = features.argsort()
        at = torch.searchsorted(features[order], self.feature).clamp_max(max(len(features) - 1, 0))
        hit = features[order][at] == self.feature if len(features) else torch.zeros_like(self.feature, dtype=torch.bool)
        out = values.new_zeros(len(features), batch * length)
        out[order[at[hit]], self.row[hit]] = values[hit]
        return out.view(-1, batch, length)


@torch.no_grad()
def moves_between(
    dictionary: Dictionary, start: Float[Tensor, "batch length d"], end: EndPoint, slope: Slope = "secant"
) -> Moves:
    """How a site moves from `start` to `end`."""
    rows, width = start.shape[0] * start.shape[1], start.shape[2]
    flat, chunk = start.reshape(rows, width), max(1, _DENSE // dictionary.features)
    if isinstance(end, FeatureActs):
        acts = end.acts.expand(*start.shape[:2], -1).reshape(rows, -1)
        error = end.error.expand_as(start).reshape(rows, width)
    else:
        acts = error = None
    entries: list[tuple[Tensor, ...]] = []
    errors, shifts = [], []
    for low in range(0, rows, chunk):
        part = slice(low, low + chunk)
        x = flat[part]
        if acts is None or error is None:
            assert isinstance(end, Tensor)
            other = (end.reshape(rows, width)[part], None)
        else:
            other = (dictionary.decode(acts[part]) + error[part], acts[part])
        *found, error_change, shift = _piece(dictionary, x, *other, slope)
        entries.append((found[0] + low, *found[1:]))
        errors.append(error_change)
        shifts.append(shift)
    row, feature, change, slopes = (torch.cat(parts) for parts in zip(*entries, strict=True))
    return Moves(row, feature, change, slopes, torch.cat(errors).view_as(start), torch.cat(shifts).view_as(start))


def _piece(
    dictionary: Dictionary, x: Tensor, end: Tensor, end_acts: Tensor | None, slope: Slope
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Row, feature, change and slope of the entries of some rows, and the changes of their error and tensor."""
    pre, pre_end = dictionary.pre_activation(x), dictionary.pre_activation(end)
    acts = dictionary.activate(pre)
    end_acts = dictionary.activate(pre_end) if end_acts is None else end_acts
    at_clean = dictionary.activation_slope(pre)
    row, feature = ((acts != 0) | (end_acts != 0) | (at_clean != 0)).nonzero().unbind(1)
    change = end_acts[row, feature] - acts[row, feature]
    slopes = at_clean[row, feature]
    if slope == "secant":
        run = pre_end[row, feature] - pre[row, feature]
        moved = run.abs() > 1e-12
        slopes = torch.where(moved, change / torch.where(moved, run, 1.0), slopes)
    shift = end - x
    return row, feature, change, slopes, shift - decoded(dictionary, row, feature, change, len(x)), shift


def decoded(dictionary: Dictionary, row: Tensor, feature: Tensor, values: Tensor, rows: int) -> Float[Tensor, "rows d"]:
    """Sum of values times decoder rows, for every row; `row` ascends."""
    if 4 * len(row) > rows * dictionary.features:
        dense = values.new_zeros(rows, dictionary.features)
        dense[row, feature] = values
        return dense @ dictionary.W_dec
    starts = torch.searchsorted(row, torch.arange(rows, device=row.device))
    return functional.embedding_bag(feature, dictionary.W_dec, starts, mode="sum", per_sample_weights=values)


def _pieces(weights: Tensor) -> int:
    return max(1, _GATHERED // weights.shape[1])
