"""True positives of every (threshold, feature, property) in one pass over the features that fire.

Each firing feature adds the labels of its position to the count of its level; a reverse cumulative sum over levels then
gives every threshold at once. The work is the number of firings times the labels that hold, and not thresholds times
features times positions times properties. Where nearly all features fire (neurons) and labels are many, and on a GPU,
one matrix product per threshold does it faster. Both are exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from boardgames.firing import THRESHOLDS, Firing, SparseActivations, SparseLabels
from saes.kernels.compiling import compiled, spread

_PRODUCTS_PER_ADDITION = 40  # multiply-adds that BLAS makes in the time of one addition (benchmarks/board_metrics.py)
_ROWS = 8192  # of a product


@dataclass(frozen=True)
class Confusion:
    """Counts over `rows` positions."""

    true_positives: Int[np.ndarray, "threshold feature property"]
    fires: Int[np.ndarray, "threshold feature"]
    positives: Int[np.ndarray, " property"]
    rows: int

    def f1(self) -> Float[np.ndarray, "threshold feature property"]:
        """2 TP / (fires + positives); 0 where a feature never fires or a property is never true."""
        total = self.fires[..., None] + self.positives
        return 2 * self.true_positives / np.maximum(total, 1)

    def best(self) -> tuple[Float[np.ndarray, "threshold property"], Int[np.ndarray, "threshold property"]]:
        """The highest F1 of any feature, and the first feature that has it, without a table of all of them."""
        shape = (len(self.fires), len(self.positives))
        best, which = np.full(shape, -1.0), np.zeros(shape, np.int64)
        spread(_best_features, len(best), self.true_positives, self.fires, self.positives, best, which)
        return best, which


def count(firing: Firing, labels: SparseLabels, device: str | torch.device = "cpu") -> Confusion:
    """All counts of one split: by levels or by products, whichever takes less time here; by products on a GPU."""
    if firing.rows != labels.rows:
        raise ValueError(f"{firing.rows} rows of features and {labels.rows} rows of labels: they must be the same rows")
    additions = len(firing.feature) * len(labels.column) / max(1, labels.rows)
    products = len(THRESHOLDS) * firing.rows * firing.features * labels.columns
    on_gpu = torch.device(device).type != "cpu"
    if on_gpu or additions * _PRODUCTS_PER_ADDITION > products:
        return count_by_products(firing, labels, device)
    return count_by_levels(firing, labels)


def count_by_levels(firing: Firing, labels: SparseLabels) -> Confusion:
    """Work: firings times labels that hold."""
    by_feature = firing.by_feature
    tp_FTP = np.zeros((firing.features, len(THRESHOLDS), labels.columns), np.int32)
    fires_FT = np.zeros((firing.features, len(THRESHOLDS)), np.int32)
    spread(
        _count_features,
        firing.features,
        by_feature.start,
        by_feature.row,
        by_feature.level,
        labels.start,
        labels.column,
        tp_FTP,
        fires_FT,
    )
    return Confusion(tp_FTP.transpose(1, 0, 2), fires_FT.T, labels.positives, labels.rows)


def count_by_products(firing: Firing, labels: SparseLabels, device: str | torch.device = "cpu") -> Confusion:
    """Work: thresholds times features times positions times properties, as matrix products, some rows at a time.

    Factors are 0 and 1 and sums stay below 2^24, so that float32 and TF32 are exact.
    """
    tp_TFP = np.zeros((len(THRESHOLDS), firing.features, labels.columns), np.int32)
    fires_TF = np.zeros((len(THRESHOLDS), firing.features), np.int32)
    for first in range(0, firing.rows, _ROWS):
        rows = slice(first, min(first + _ROWS, firing.rows))
        level_NF = torch.from_numpy(firing.dense(rows)).to(device)
        truth_NP = torch.from_numpy(labels.dense(rows)).to(device, torch.float32)
        for t in range(len(THRESHOLDS)):
            active_NF = level_NF >= t
            tp_TFP[t] += (active_NF.float().T @ truth_NP).cpu().numpy().astype(np.int32)
            fires_TF[t] += active_NF.sum(0).cpu().numpy().astype(np.int32)
    return Confusion(tp_TFP, fires_TF, labels.positives, labels.rows)


def count_confusion(
    batches: Iterable[tuple[Float[Tensor, "_ f"], Bool[np.ndarray, "_ p"]]], maxima: Float[Tensor, " f"]
) -> Confusion:
    """Counts of dense (features, labels) batches. `maxima` are each feature's maximum on the selection split."""
    pairs = list(batches)
    if not pairs:
        raise ValueError("no positions to count")
    features, labels = zip(*pairs, strict=True)
    truth = SparseLabels.of(np.concatenate(labels))
    return count(SparseActivations.of(features).firing(maxima.cpu()), truth, features[0].device)


@compiled
def _count_features(low, high, start, row, level, label_start, label, tp_FTP, fires_FT):
    for f in range(low, high):
        tp_TP, fires_T = tp_FTP[f], fires_FT[f]
        for e in range(start[f], start[f + 1]):
            t, n = level[e], row[e]
            fires_T[t] += 1
            for j in range(label_start[n], label_start[n + 1]):
                tp_TP[t, label[j]] += 1
        for t in range(len(fires_T) - 2, -1, -1):
            fires_T[t] += fires_T[t + 1]
            for p in range(tp_TP.shape[1]):
                tp_TP[t, p] += tp_TP[t + 1, p]


@compiled
def _best_features(low, high, tp_TFP, fires_TF, positives, best, which):
    for t in range(low, high):
        for f in range(tp_TFP.shape[1]):
            for p in range(len(positives)):
                f1 = 2 * tp_TFP[t, f, p] / max(fires_TF[t, f] + positives[p], 1)
                if f1 > best[t, p]:
                    best[t, p], which[t, p] = f1, f
