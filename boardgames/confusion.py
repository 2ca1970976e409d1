"""True positives of every (threshold, feature, property) in one pass over sparse activations.

A feature predicts a property where its activation exceeds t times its maximum, for t in 0, .1, ... 1 (Karvonen et
al. 2024, section 3.2; strictly greater, products in float32). Each non-zero activation is binned once by the highest
threshold it exceeds and its labels are added to that bin; a reverse cumulative sum over bins then gives every
threshold at once. Dense features (neurons) go through one matrix product per threshold; both are exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csr_matrix
from torch import Tensor

THRESHOLDS = torch.arange(0, 1.1, 0.1)  # float32, as the reference has them
_DENSE = 0.08  # share of non-zero activations above which a matrix product per threshold is faster


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


def count_confusion(
    batches: Iterable[tuple[Float[Tensor, "_ f"], Bool[np.ndarray, "_ p"]]], maxima: Float[Tensor, " f"]
) -> Confusion:
    """Stream (features, labels) batches into counts. `maxima` are each feature's maximum on the selection split.

    A feature whose maximum is not positive never fires.
    """
    steps, width = len(THRESHOLDS), len(maxima)
    alive = maxima > 0
    maxima = torch.where(alive, maxima.float(), 0.0)  # 0, not negative: a silenced activation exceeds no threshold
    tp_TFP: np.ndarray | None = None
    fires_TF = np.zeros((steps, width), np.int64)
    positives, rows = np.zeros(0, np.int64), 0
    for features, labels in batches:
        features = torch.where(alive, features.float(), 0.0)
        truth = np.ascontiguousarray(labels, np.float32)
        if tp_TFP is None:
            tp_TFP, positives = np.zeros((steps, width, labels.shape[1]), np.int64), np.zeros(labels.shape[1], np.int64)
        if float((features > 0).float().mean()) > _DENSE:
            tp, fires = _by_products(features, truth, maxima)
        else:
            tp, fires = _by_bins(features, truth, maxima)
        tp_TFP += tp
        fires_TF += fires
        positives += labels.sum(0)
        rows += len(labels)
    if tp_TFP is None:
        raise ValueError("no positions to count")
    return Confusion(tp_TFP, fires_TF, positives, rows)


def _by_bins(features: Tensor, truth: np.ndarray, maxima: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Binning: work proportional to the non-zero activations. Counts stay below 2^24, so float32 sums are exact."""
    steps, width = len(THRESHOLDS), len(maxima)
    row, feature = (features > 0).nonzero(as_tuple=True)
    value = features[row, feature]
    cuts_NT = THRESHOLDS.to(value.device) * maxima[feature][:, None]
    level = (value[:, None] > cuts_NT).sum(1) - 1  # the last threshold exceeded; value > 0 exceeds the first
    bins = (level * width + feature).cpu().numpy()
    members = csr_matrix((np.ones(len(bins), np.float32), (bins, row.cpu().numpy())), (steps * width, len(truth)))
    tp = np.asarray(members @ truth).reshape(steps, width, -1)
    fires = np.asarray(members.sum(1)).reshape(steps, width)
    return _from_above(tp).astype(np.int64), _from_above(fires).astype(np.int64)


def _by_products(features: Tensor, truth: np.ndarray, maxima: Tensor) -> tuple[np.ndarray, np.ndarray]:
    truth_NP = torch.from_numpy(truth).to(features.device)
    tp, fires = [], []
    for t in THRESHOLDS.to(features.device):
        active_NF = (features > t * maxima).float()
        tp.append((active_NF.T @ truth_NP).cpu().numpy())
        fires.append(active_NF.sum(0).cpu().numpy())
    return np.stack(tp).astype(np.int64), np.stack(fires).astype(np.int64)


def _from_above(counts: np.ndarray) -> np.ndarray:
    """Reverse cumulative sum over the threshold axis: what exceeds t also exceeds every smaller t."""
    return counts[::-1].cumsum(0)[::-1]
