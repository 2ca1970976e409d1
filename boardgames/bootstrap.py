"""Intervals over games: positions of one game are not independent, so that whole games are drawn again."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from boardgames.coverage import GameCounts
from boardgames.reconstruction import micro_f1

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A score on all games, and the same score on every resample of them; resamples of one seed are paired."""

    score: float
    samples: Float[np.ndarray, " resample"]

    @property
    def bounds(self) -> tuple[float, float]:
        """The middle 95 % of the resamples; the score twice if there are none."""
        if not len(self.samples):
            return self.score, self.score
        low, high = np.quantile(self.samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    def __sub__(self, other: "Interval") -> "Interval":
        """The paired difference of two scores on the same games."""
        return Interval(self.score - other.score, self.samples - other.samples)

    def to_json(self) -> dict[str, Any]:
        low, high = self.bounds
        return {"score": self.score, "low": low, "high": high}


def mean(intervals: list[Interval]) -> Interval:
    """The plain mean of several scores on the same games."""
    return Interval(float(np.mean([i.score for i in intervals])), np.mean([i.samples for i in intervals], axis=0))


def resamples(games: int, count: int, seed: int = 0) -> Float[np.ndarray, "resample game"]:
    """How often each game is drawn, as many draws as there are games."""
    return np.random.default_rng([seed, games]).multinomial(games, np.full(games, 1 / games), count).astype(np.float64)


def coverage_interval(counts: GameCounts, weights: Float[np.ndarray, "resample game"]) -> Interval:
    """The mean F1 of the properties that occur, in all games and in each resample of them."""
    occurs = counts.positives.sum(0) > 0
    f1_SP, there = _resampled_f1(counts, weights, occurs)
    samples = np.where(there, f1_SP, 0).sum(1) / np.maximum(there.sum(1), 1)
    return Interval(float(counts.f1()[occurs].mean()) if occurs.any() else 0.0, samples)


def f1_bounds(counts: GameCounts, weights: Float[np.ndarray, "resample game"]) -> Float[np.ndarray, "property 2"]:
    """The middle 95 % of the resamples' F1 of each property, of those resamples in which it occurs."""
    f1_SP, there = _resampled_f1(counts, weights, np.ones(counts.positives.shape[1], bool))
    return np.array(
        [Interval(score, f1_S[some]).bounds for score, f1_S, some in zip(counts.f1(), f1_SP.T, there.T, strict=True)]
    ).reshape(-1, 2)


def _resampled_f1(
    counts: GameCounts, weights: Float[np.ndarray, "resample game"], chosen: Bool[np.ndarray, " property"]
) -> tuple[Float[np.ndarray, "resample chosen"], Bool[np.ndarray, "resample chosen"]]:
    """F1 of the chosen properties in each resample, and whether they occur in it."""
    hits, fires, positives = (a[:, chosen].astype(np.float64) for a in (counts.hits, counts.fires, counts.positives))
    positives_SP = weights @ positives
    return 2 * (weights @ hits) / np.maximum(weights @ fires + positives_SP, 1), positives_SP > 0


def pooled_interval(
    hits: Int[np.ndarray, " game"],
    predicted: Int[np.ndarray, " game"],
    true: Int[np.ndarray, " game"],
    weights: Float[np.ndarray, "resample game"],
) -> Interval:
    """F1 of counts that are pooled over games."""
    score = micro_f1(hits.sum(), predicted.sum(), true.sum())
    return Interval(float(score), np.asarray(micro_f1(weights @ hits, weights @ predicted, weights @ true)))
