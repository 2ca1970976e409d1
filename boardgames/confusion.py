"""True positives of every (threshold, feature, property) in one pass over the features that fire.

Each firing feature adds the labels of its position to the count of its level; a reverse cumulative sum over levels then
gives every threshold at once. The work is the number of firings times the labels that hold, and not thresholds times
features times positions times properties. On a GPU features are dense and one matrix product per threshold does it.
Both are exact.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from boardgames.firing import THRESHOLDS, Firing, SparseActivations, SparseLabels
from saes.kernels.compiling import compiled, spread


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


def count(firing: Firing, labels: SparseLabels) -> Confusion:
    """All counts of one split."""
    if firing.rows != labels.rows:
        raise ValueError(f"{firing.rows} rows of features and {labels.rows} rows of labels: they must be the same rows")
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


def count_confusion(
    batches: Iterable[tuple[Float[Tensor, "_ f"], Bool[np.ndarray, "_ p"]]], maxima: Float[Tensor, " f"]
) -> Confusion:
    """Counts of dense (features, labels) batches. `maxima` are each feature's maximum on the selection split.

    Features on a GPU are counted there.
    """
    pairs = iter(batches)
    first = next(pairs, None)
    if first is None:
        raise ValueError("no positions to count")
    if first[0].is_cuda:
        return count_by_products([first, *pairs], maxima)
    features, labels = zip(first, *pairs, strict=True)
    return count(SparseActivations.of(features).firing(maxima.cpu()), SparseLabels.of(np.concatenate(labels)))


def count_by_products(
    batches: Iterable[tuple[Float[Tensor, "_ f"], Bool[np.ndarray, "_ p"]]], maxima: Float[Tensor, " f"]
) -> Confusion:
    """The same counts, one matrix product per threshold and batch: for dense features (neurons) on a GPU.

    Factors are 0 and 1, so that float32 and TF32 are exact for batches of fewer than 2^24 rows.
    """
    tp, fires, positives, rows = None, None, 0, 0
    for features, labels in batches:
        alive = maxima.to(features.device) > 0
        cuts_TF = torch.where(alive, THRESHOLDS[:, None].to(features.device) * maxima.to(features.device), torch.inf)
        truth = torch.from_numpy(labels).to(features.device, torch.float32)
        active = [features.float() > cut for cut in cuts_TF]
        here = torch.stack([a.float().T @ truth for a in active]).cpu().numpy().astype(np.int64)
        fired = torch.stack([a.sum(0) for a in active]).cpu().numpy()
        tp, fires = (here, fired) if tp is None or fires is None else (tp + here, fires + fired)
        positives, rows = positives + labels.sum(0), rows + len(labels)
    if tp is None or fires is None:
        raise ValueError("no positions to count")
    return Confusion(tp, fires, np.asarray(positives), rows)


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
