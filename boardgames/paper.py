"""The metrics of Karvonen et al. 2024 exactly as the original code computes them, to compare with published numbers.

What is defective there is repeated here and nowhere else (`boardgames.scoring` has the metrics to use): coverage is
chosen and scored on one split and divided by all columns, whether they can be true or not; maxima come from the first
half of the games, all tokens of them; a label is given where TP * (1 / fires) >= 0.95 in float32, which refuses some
pairs of exactly 0.95; the threshold of the reconstruction is chosen on the split that is scored, by another F1; and the
last threshold is replaced by a vote of each feature at its highest labelled one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from boardgames.confusion import Confusion, count
from boardgames.firing import Firing, SparseLabels
from boardgames.reconstruction import MINIMUM_TRUE_POSITIVES, Votes, boards, micro_f1


@dataclass(frozen=True)
class PaperCoverage:
    per_threshold: Float[np.ndarray, " threshold"]
    any_threshold: float
    """of the best threshold for each property; the original computes it and does not use it"""

    @property
    def best(self) -> float:
        """What the original reports."""
        return float(self.per_threshold.max())


def coverage(counts: Confusion, denominator: int) -> PaperCoverage:
    """Max over t of the mean of the best F1 over features, on the split that is counted."""
    best_TP = counts.best()[0]
    return PaperCoverage(best_TP.sum(1) / denominator, float(best_TP.max(0).sum() / denominator))


def precise_in_float32(counts: Confusion) -> Bool[np.ndarray, "threshold feature property"]:
    """The original's labels: TP times the float32 inverse of the firing count."""
    tp = counts.true_positives.astype(np.float32)
    inverse = np.float32(1) / np.maximum(counts.fires, 1).astype(np.float32)
    return (tp * inverse[..., None] >= np.float32(0.95)) & (counts.true_positives >= MINIMUM_TRUE_POSITIVES)


@dataclass(frozen=True)
class PaperReconstruction:
    """Slot t is threshold t, but for the last, where each feature votes at its highest labelled threshold."""

    hits: Int[np.ndarray, " threshold"]
    wrong: Int[np.ndarray, " threshold"]
    by_square: Float[np.ndarray, " threshold"]
    true: int

    @property
    def by_class(self) -> Float[np.ndarray, " threshold"]:
        """Pooled F1."""
        return micro_f1(self.hits, self.hits + self.wrong, self.true)

    @property
    def reported(self) -> int:
        """The slot that the original reports: the best by square of the true thresholds."""
        return int(np.argmax(self.by_square[:-1]))

    @property
    def score(self) -> float:
        return float(self.by_class[self.reported])

    @property
    def last(self) -> float:
        return float(self.by_class[-1])


def reconstruction(
    given: Bool[np.ndarray, "threshold feature property"],
    scored_on: Firing,
    truth: Bool[np.ndarray, "rows property"],
    square: Int[np.ndarray, " property"],
) -> PaperReconstruction:
    """`square`: the number of the square (0, 1, ...) that each column is a class of."""
    votes, slots = Votes(given), len(given)
    order = np.argsort(square, kind="stable")
    edges = np.flatnonzero(np.diff(square[order], prepend=-1))
    hits, wrong, by_square = np.zeros(slots, np.int64), np.zeros(slots, np.int64), np.zeros(slots)
    for t in range(slots):
        says = votes.at(t) if t + 1 < slots else votes.highest()
        found = missed = 0
        for rows, board in boards(scored_on, votes, says):
            right, false = board & truth[rows], board & ~truth[rows]
            hits[t] += right.sum()
            wrong[t] += false.sum()
            missed += int((truth[rows] & ~board).sum())
            right_NS, false_NS = (np.add.reduceat(x[:, order], edges, axis=1, dtype=np.int32) for x in (right, false))
            # a square found right is not counted where exactly one wrong class was found with it, nor as missed
            found += int(right_NS[false_NS != 1].sum())
        by_square[t] = micro_f1(found, found + wrong[t], found + missed)
    return PaperReconstruction(hits, wrong, by_square, int(truth.sum()))


def score(
    chosen_from: Firing,
    chosen_truth: SparseLabels,
    scored_on: Firing,
    truth: Bool[np.ndarray, "rows property"],
    square: Int[np.ndarray, " property"],
    denominator: int,
) -> dict[str, Any]:
    """One function's numbers; both splits fire in units of the maxima of the alive pass; see reconstruction."""
    counts = count(chosen_from, chosen_truth)
    found = coverage(counts, denominator)
    spelt = reconstruction(precise_in_float32(counts), scored_on, truth, square)
    return {
        "coverage": found.best,
        "coverage_any_threshold": found.any_threshold,
        "denominator": denominator,
        "reconstruction": spelt.score,
        "reconstruction_last": spelt.last,
    }
