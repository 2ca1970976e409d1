"""Coverage (Karvonen et al. 2024, section 3.2): how well single features detect board properties."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from boardgames.confusion import Confusion


@dataclass(frozen=True)
class Coverage:
    """F1 on the scoring split of the (threshold, feature) that is best on the selection split, per property."""

    score: float  # mean over the properties
    f1: Float[np.ndarray, " property"]
    feature: Int[np.ndarray, " property"]
    threshold: Int[np.ndarray, " property"]  # index into THRESHOLDS


def held_out_coverage(selection: Confusion, scoring: Confusion) -> Coverage:
    """Choose on one split, score on another; a property that never occurs while scoring counts as 0."""
    chosen = selection.f1()
    flat = chosen.reshape(-1, chosen.shape[-1]).argmax(0)
    threshold, feature = np.unravel_index(flat, chosen.shape[:2])
    f1 = scoring.f1()[threshold, feature, np.arange(chosen.shape[-1])]
    return Coverage(float(f1.mean()), f1, feature, threshold)


def in_sample_coverage(confusion: Confusion) -> float:
    """The paper's number: max over t of the mean over properties of the best F1 over features, all on one split."""
    return float(confusion.f1().max(axis=1).mean(axis=1).max())


def always_on_floor(scoring: Confusion) -> float:
    """Coverage of a feature that always fires: the mean of 2p / (1 + p) over properties with base rate p."""
    return float(np.mean(2 * scoring.positives / (scoring.rows + scoring.positives)))


def occurrence_ceiling(scoring: Confusion) -> float:
    """The most that any detector can reach: the share of properties that occur at all while scoring."""
    return float(np.mean(scoring.positives > 0))
