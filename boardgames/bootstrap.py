"""Intervals over games: positions of one game are not independent, so that whole games are weighted anew."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

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
    """Random weights of the games, of mean 1 in each resample (the Bayesian bootstrap, Rubin 1981).

    Drawing games with replacement would leave a third of them out each time, and with them the properties that occur
    in one game only: their mean would then be one of other properties.
    """
    return np.random.default_rng([seed, games]).dirichlet(np.ones(games), count) * games


def coverage_interval(counts: GameCounts, weights: Float[np.ndarray, "resample game"]) -> Interval:
    """The mean F1 of the properties that occur, in all games and in each resample of them."""
    occurs = counts.positives.any(0)
    if not occurs.any():
        return Interval(0.0, np.zeros(len(weights)))
    return Interval(float(counts.f1()[occurs].mean()), _resampled_f1(counts, weights)[:, occurs].mean(1))


def f1_bounds(counts: GameCounts, weights: Float[np.ndarray, "resample game"]) -> Float[np.ndarray, "property 2"]:
    """The middle 95 % of the resamples' F1 of each property."""
    f1_SP = _resampled_f1(counts, weights)
    return np.array([Interval(score, f1_S).bounds for score, f1_S in zip(counts.f1(), f1_SP.T, strict=True)])


def _resampled_f1(
    counts: GameCounts, weights: Float[np.ndarray, "resample game"]
) -> Float[np.ndarray, "resample property"]:
    """F1 of every property in each resample; 0 for one that neither occurs nor is predicted."""
    hits, fires, positives = (a.astype(np.float64) for a in (counts.hits, counts.fires, counts.positives))
    total_SP = weights @ (fires + positives)
    return 2 * (weights @ hits) / np.where(total_SP > 0, total_SP, 1)


def pooled_interval(
    hits: Int[np.ndarray, " game"],
    predicted: Int[np.ndarray, " game"],
    true: Int[np.ndarray, " game"],
    weights: Float[np.ndarray, "resample game"],
) -> Interval:
    """F1 of counts that are pooled over games."""
    score = micro_f1(hits.sum(), predicted.sum(), true.sum())
    return Interval(float(score), np.asarray(micro_f1(weights @ hits, weights @ predicted, weights @ true)))
