"""Which features fire on which positions, and up to which threshold: the table that all metrics are counted from.

A feature predicts a property where its activation exceeds t times its maximum, for t in 0, .1, ... 1 (Karvonen et
al. 2024, section 3.2; strictly greater, products in float32). What exceeds a threshold exceeds all lower ones, so one
number says it all: the level of an activation, the index of the highest threshold that it exceeds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

from saes.kernels.compiling import compiled, spread

THRESHOLDS = torch.arange(0, 1.1, 0.1)  # float32, as the reference has them


@dataclass(frozen=True)
class SparseActivations:
    """The positive activations of F features, row by row: those of row n are start[n] to start[n + 1]."""

    start: Int[np.ndarray, " rows_and_one"]
    feature: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    features: int

    @classmethod
    def of(cls, batches: Iterable[Float[Tensor, "_ f"]]) -> "SparseActivations":
        """From dense features, a batch of rows at a time. Activations that are not positive exceed no threshold."""
        counts, columns, values, features = [], [], [], 0
        for batch in batches:
            rows, features = batch.shape
            flat = batch.detach().flatten()
            where = (flat > 0).nonzero()[:, 0]
            row = where.div(features, rounding_mode="floor")
            counts.append(row.bincount(minlength=rows).cpu().numpy())
            columns.append((where - row * features).int().cpu().numpy())
            values.append(flat[where].float().cpu().numpy())
        if not counts:
            raise ValueError("no positions to count")
        start = np.concatenate([[0], np.concatenate(counts).cumsum(dtype=np.int64)])
        return cls(start, np.concatenate(columns), np.concatenate(values), features)

    @property
    def rows(self) -> int:
        return len(self.start) - 1

    @property
    def l0(self) -> float:
        """Mean number of active features."""
        return float(self.start[-1]) / self.rows

    def maxima(self) -> Float[Tensor, " f"]:
        """Largest activation of every feature, 0 for one that never fires: the unit of its thresholds."""
        largest = torch.zeros(self.features)
        return largest.scatter_reduce(
            0, torch.from_numpy(self.feature).long(), torch.from_numpy(self.value), "amax", include_self=True
        )

    def firing(self, maxima: Float[Tensor, " f"]) -> "Firing":
        """Which thresholds are exceeded, in units of these maxima; a feature whose maximum is 0 or less never fires."""
        cuts_FT = torch.where(maxima > 0, THRESHOLDS[:, None] * maxima.float(), torch.inf).T.contiguous()
        level = np.empty(len(self.value), np.int8)
        spread(_levels, len(self.value), self.feature, self.value, cuts_FT.numpy(), level)
        fires = level >= 0
        if fires.all():
            return Firing(self.start, self.feature, level, self.features)
        start = np.concatenate([[0], fires.cumsum()])[self.start]
        return Firing(start, self.feature[fires], level[fires], self.features)


@dataclass(frozen=True)
class Firing:
    """The features that fire on each row, with the index of the highest threshold that each exceeds."""

    start: Int[np.ndarray, " rows_and_one"]
    feature: Int[np.ndarray, " n"]
    level: Int[np.ndarray, " n"]
    features: int

    @property
    def rows(self) -> int:
        return len(self.start) - 1

    @cached_property
    def by_feature(self) -> "ByFeature":
        """The same, feature by feature; rows ascend within each."""
        table: Any = csr_matrix((self.level + np.int8(1), self.feature, self.start), (self.rows, self.features)).tocsc()
        return ByFeature(table.indptr.astype(np.int64), table.indices, table.data - np.int8(1))

    def dense(self, rows: slice) -> Int[np.ndarray, "some features"]:
        """The levels of some rows, -1 where a feature does not fire."""
        start = self.start[rows.start : rows.stop + 1]
        here = slice(start[0], start[-1])
        table = np.full((len(start) - 1, self.features), -1, np.int8)
        table[np.repeat(np.arange(len(table)), np.diff(start)), self.feature[here]] = self.level[here]
        return table

    def at(self, feature: int, threshold: int) -> Int[np.ndarray, " fires"]:
        """The rows on which a feature exceeds a threshold, ascending."""
        return self.by_feature.at(feature, threshold)


@dataclass(frozen=True)
class ByFeature:
    """Rows and levels of feature f are start[f] to start[f + 1]."""

    start: Int[np.ndarray, " features_and_one"]
    row: Int[np.ndarray, " n"]
    level: Int[np.ndarray, " n"]

    def at(self, feature: int, threshold: int) -> Int[np.ndarray, " fires"]:
        here = slice(self.start[feature], self.start[feature + 1])
        return self.row[here][self.level[here] >= threshold]


@dataclass(frozen=True)
class SparseLabels:
    """The properties that hold on each row: those of row n are start[n] to start[n + 1], ascending."""

    start: Int[np.ndarray, " rows_and_one"]
    column: Int[np.ndarray, " n"]
    positives: Int[np.ndarray, " property"]

    @classmethod
    def of(cls, labels: Bool[np.ndarray, "rows property"]) -> "SparseLabels":
        table: Any = csr_matrix(labels)
        return cls(table.indptr.astype(np.int64), table.indices, labels.sum(0))

    @property
    def rows(self) -> int:
        return len(self.start) - 1

    @property
    def columns(self) -> int:
        return len(self.positives)

    def dense(self, rows: slice) -> Bool[np.ndarray, "some property"]:
        """The labels of some rows."""
        start = self.start[rows.start : rows.stop + 1]
        table = np.zeros((len(start) - 1, self.columns), bool)
        table[np.repeat(np.arange(len(table)), np.diff(start)), self.column[start[0] : start[-1]]] = True
        return table


@compiled
def _levels(low, high, feature, value, cuts_FT, level):
    for n in range(low, high):
        cuts = cuts_FT[feature[n]]
        t = -1
        while t + 1 < len(cuts) and value[n] > cuts[t + 1]:
            t += 1
        level[n] = t
