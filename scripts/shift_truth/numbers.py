"""Shares of the gap closed, and rank correlations, with bootstrap intervals over clusters of tasks.

Tasks that ask for the same square are not independent: whole clusters are drawn, and all their tasks with them.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.stats import rankdata

from circuits.intervals import Interval, interval

RESAMPLES = 1000
Draws = Float[np.ndarray, "draws tasks"]


def cluster_draws(clusters: Sequence[Hashable], seed: int = 0) -> Draws:
    """How often each task counts: in all tasks first (once each), then in each resample of the clusters.

    A single cluster has no resamples: drawn again it is always the same.
    """
    names = list(dict.fromkeys(clusters))
    if len(names) < 2:
        return np.ones((1, len(clusters)))
    member = np.array([[c == name for c in clusters] for name in names], float)
    picked = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), RESAMPLES)
    return np.concatenate([np.ones((1, len(clusters))), picked @ member])


def gap_closed(after: Sequence[float], original: Sequence[float], oracle: Sequence[float], draws: Draws) -> Interval:
    """Share of the way from the original's worst group to the oracle's, of the sums over tasks.

    The ratio of sums, not the mean of ratios: a task without a gap would make the latter anything.
    """
    return _interval(gap_draws(after, original, oracle, draws))


def gap_draws(
    after: Sequence[float], original: Sequence[float], oracle: Sequence[float], draws: Draws
) -> Float[np.ndarray, " draws"]:
    """gap_closed of all tasks, then of each resample; NaN where there is no gap."""
    base = np.asarray(original, float)
    above, below = draws @ (np.asarray(after, float) - base), draws @ (np.asarray(oracle, float) - base)
    return np.divide(above, below, out=np.full(len(draws), np.nan), where=np.abs(below) > 1e-9)


def gap_difference(
    first: Sequence[float], second: Sequence[float], original: Sequence[float], oracle: Sequence[float], draws: Draws
) -> Interval:
    """How much more of the gap the first closes than the second, on the same tasks and the same resamples."""
    return _interval(gap_draws(first, original, oracle, draws) - gap_draws(second, original, oracle, draws))


def mean(values: Sequence[float], draws: Draws) -> Interval:
    """Over tasks."""
    return _interval(draws @ np.asarray(values, float) / draws.sum(1))


def rank_correlation(
    quality: Sequence[float],
    gains: Float[np.ndarray, "sets draws"],
    given: Sequence[float] | None = None,
    seed: int = 0,
) -> Interval:
    """Spearman's rho of a number of each set of dictionaries with its gain; partial if another number is `given`.

    Each resample draws the sets, too, beside the clusters of tasks that made the gains.
    """
    sets, draws = gains.shape
    rng = np.random.default_rng(seed)
    known = [np.asarray(values, float) for values in (quality, *([] if given is None else [given]))]
    resampled = []
    for column in range(1, draws):
        chosen = rng.integers(sets, size=sets)
        resampled.append(_spearman(gains[chosen, column], *(values[chosen] for values in known)))
    return interval(_spearman(gains[:, 0], *known), np.array([r for r in resampled if np.isfinite(r)]))


def clustered_correlation(
    first: Sequence[float], second: Sequence[float], clusters: Sequence[Hashable], seed: int = 0
) -> Interval:
    """Spearman's rho of two numbers of each task; each resample draws whole clusters, and all their tasks with them.

    No bounds for a single cluster.
    """
    x, y = np.asarray(first, float), np.asarray(second, float)
    members = [np.flatnonzero([c == name for c in clusters]) for name in dict.fromkeys(clusters)]
    rng, resampled = np.random.default_rng(seed), []
    for _ in range(RESAMPLES if len(members) > 1 else 0):
        chosen = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        resampled.append(_spearman(x[chosen], y[chosen]))
    return _interval(np.array([_spearman(x, y), *resampled]))


def _spearman(a: np.ndarray, b: np.ndarray, given: np.ndarray | None = None) -> float:
    """Of ranks; given a third, of what the ranks of both have beyond a line in its ranks."""
    x, y = rankdata(a), rankdata(b)
    if given is not None and np.ptp(given):
        line = np.stack([np.ones(len(given)), rankdata(given)], 1)
        x, y = (ranks - line @ np.linalg.lstsq(line, ranks)[0] for ranks in (x, y))
    if np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def _interval(values: Float[np.ndarray, " draws"]) -> Interval:
    return interval(float(values[0]), values[1:][np.isfinite(values[1:])])


def square_of(task: Mapping[str, Any]) -> str:
    """The cluster of a task: what it intends."""
    return task["intended"]


def worst(results: Sequence[Mapping[str, Any]], method: str) -> list[float]:
    """Worst group of a method in each result."""
    return [result["rows"][method]["worst_group"] for result in results]
