"""Board reconstruction (Karvonen et al. 2024, section 3.3): the board that high-precision features spell out together.

A feature at a threshold is labelled with a property if it has precision of at least 0.95 on the selection split, with
at least 10 true positives. A position's predicted board is everything that its active features are labelled with;
the score is the F1 of that prediction, pooled over properties and positions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.sparse import csr_matrix
from torch import Tensor

from boardgames.confusion import THRESHOLDS, Confusion

MINIMUM_TRUE_POSITIVES = 10
_DENSE = 0.08  # share of active features above which a dense product is faster than a sparse one


@dataclass(frozen=True)
class Reconstruction:
    score: float  # on the scoring split, at the threshold that is best on the selection split
    threshold: int  # index into THRESHOLDS
    by_threshold: Float[np.ndarray, " threshold"]  # on the scoring split
    labelled_features: int  # features with at least one label at that threshold


def precise_labels(selection: Confusion) -> Bool[np.ndarray, "threshold feature property"]:
    """Which properties each feature stands for: precision >= 0.95 (in exact integers) and enough true positives."""
    tp, fires = selection.true_positives, selection.fires[..., None]
    return (20 * tp >= 19 * fires) & (tp >= MINIMUM_TRUE_POSITIVES)


def micro_f1(predicted_and_true: int, predicted: int, true: int) -> float:
    """F1 from pooled counts; 0 when nothing is predicted or true."""
    return 2 * predicted_and_true / max(predicted + true, 1)


def f1_by_threshold(
    batches: Iterable[tuple[Float[Tensor, "_ f"], Bool[np.ndarray, "_ p"]]],
    labels: Bool[np.ndarray, "threshold feature property"],
    maxima: Float[Tensor, " f"],
) -> Float[np.ndarray, " threshold"]:
    """Pooled F1 of the predicted boards at every threshold."""
    hits, predicted, true = np.zeros(len(THRESHOLDS), np.int64), np.zeros(len(THRESHOLDS), np.int64), 0
    weights = labels.astype(np.float32)
    maxima = maxima.float()
    for features, truth in batches:
        true += int(truth.sum())
        for t, cut in enumerate(THRESHOLDS.to(features.device)):
            board = _any_active((features.float() > cut * maxima) & (maxima > 0), weights[t])
            hits[t] += int((board & truth).sum())
            predicted[t] += int(board.sum())
    return np.array([micro_f1(int(h), int(p), true) for h, p in zip(hits, predicted, strict=True)])


def _any_active(active_NF: Bool[Tensor, "rows f"], labels_FP: np.ndarray) -> Bool[np.ndarray, "rows p"]:
    """Whether any active feature has the label."""
    if float(active_NF.float().mean()) > _DENSE:
        return ((active_NF.float() @ torch.from_numpy(labels_FP).to(active_NF.device)) > 0).cpu().numpy()
    row, feature = active_NF.nonzero(as_tuple=True)
    matrix = csr_matrix((np.ones(len(row), np.float32), (row.cpu().numpy(), feature.cpu().numpy())), active_NF.shape)
    return np.asarray(matrix @ labels_FP) > 0


def held_out_reconstruction(
    selection: Confusion,
    selection_batches: Iterable[tuple[Float[Tensor, "_ f"], Bool[np.ndarray, "_ p"]]],
    scoring_batches: Iterable[tuple[Float[Tensor, "_ f"], Bool[np.ndarray, "_ p"]]],
    maxima: Float[Tensor, " f"],
) -> Reconstruction:
    """Labels and threshold from the selection split, the score from the scoring split."""
    labels = precise_labels(selection)
    best = int(f1_by_threshold(selection_batches, labels, maxima).argmax())
    scores = f1_by_threshold(scoring_batches, labels, maxima)
    return Reconstruction(float(scores[best]), best, scores, int(labels[best].any(-1).sum()))
