"""Bootstrap intervals over examples: prompts are the sampling units (Efron 1979, percentile intervals); correlations.

All values of one measurement are resampled with the same draws, so what is computed of several of them, such as a
ratio or an area under a curve, keeps how they vary together.
"""

import statistics
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A number and the middle 95 % of its resamples; no bounds (None) where they tell nothing."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        return f"{self.value:.3g}" if self.low is None else f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def resampled_means(
    values: Float[np.ndarray, "rows examples"], resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "resamples rows"]:
    """Means over examples that are drawn with replacement, the same draws for every row; none for a single example."""
    examples = values.shape[1]
    if examples < 2:
        return np.empty((0, len(values)))
    counts = np.random.default_rng(seed).multinomial(examples, np.full(examples, 1 / examples), size=resamples)
    return counts @ values.T / examples


def interval(value: float, resampled: Float[np.ndarray, " resamples"]) -> Interval:
    """The number with its percentile bounds; none if a resample is not finite, such as a ratio to no effect at all."""
    if not len(resampled) or not np.isfinite(resampled).all():
        return Interval(float(value), None, None)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(value), float(low), float(high))


def correlation(a: ArrayLike, b: ArrayLike) -> float | None:
    """Pearson's, of ranks Spearman's; None for fewer than 3 pairs, or where one side is constant."""
    both = np.array([a, b], dtype=np.float64)
    if both.shape[1] < 3 or not np.ptp(both, axis=1).all():
        return None
    return statistics.correlation(*both.tolist())
