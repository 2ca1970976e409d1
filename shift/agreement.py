"""How far raters agree, and how good a judge is: Cohen's kappa (1960), precision and recall, with intervals.

Each comes plain and weighted by the features' absolute effect: a wrong verdict on a strong feature costs more.
Intervals are bootstraps over items (circuits/intervals.py): what was judged as one group is drawn as one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from jaxtyping import Bool, Float, Int

from circuits.intervals import RESAMPLES, Interval, interval
from shift.verdicts import VERDICTS, Judgement, JudgementError, Policy

_FEWEST_DEFINED = 0.95  # share of resamples in which a ratio has to be defined, for bounds to be given


@dataclass(frozen=True)
class Agreement:
    """Of two raters on the features that both judged; kappa is NaN where chance alone would make them agree always."""

    features: int
    same: Interval
    """share of features with the same verdict"""
    kappa: Interval
    weighted_same: Interval
    """share of the absolute effect"""
    weighted_kappa: Interval


@dataclass(frozen=True)
class Quality:
    """Of a judge against a reference, over the features that both judged; NaN where nothing is trimmed."""

    features: int
    precision: Interval
    """share of what the judge trims that the reference trims"""
    recall: Interval
    """share of what the reference trims that the judge trims"""
    weighted_precision: Interval
    weighted_recall: Interval


def agreement(judgements: Sequence[Judgement], one: str, other: str, seed: int = 0) -> Agreement:
    """Between two raters, on the candidates that both judged; all four verdicts count as different."""
    a, b, weight, items = _paired(judgements, one, other)
    codes = np.array(
        [VERDICTS.index(x.verdict) * len(VERDICTS) + VERDICTS.index(y.verdict) for x, y in zip(a, b, strict=True)]
    )
    found = []
    for w in (np.ones(len(weight)), weight):
        table = _tables(codes, len(VERDICTS) ** 2, w, items, seed).reshape(-1, len(VERDICTS), len(VERDICTS))
        found += [_interval(_same(table)), _interval(_kappa(table))]
    return Agreement(len(a), *found)


def all_agreements(judgements: Sequence[Judgement], seed: int = 0) -> dict[tuple[str, str], Agreement]:
    """Between any two raters that judged some of the same candidates."""
    judged: dict[str, set[tuple[str, int]]] = {}
    for j in _candidates(judgements):
        judged.setdefault(j.rater, set()).add(j.key)
    return {
        (one, other): agreement(judgements, one, other, seed)
        for one, other in combinations(sorted(judged), 2)
        if judged[one] & judged[other]
    }


def quality(
    judgements: Sequence[Judgement], judge: str, reference: str, policy: Policy | None = None, seed: int = 0
) -> Quality:
    """Precision and recall of what one rater trims against what another trims, such as the concept oracle.

    `policy` says how both raters' unsure and mixed verdicts count: as a wish to keep if it is not given.
    """
    policy = Policy() if policy is None else policy
    a, b, weight, items = _paired(judgements, judge, reference)
    says, truth = ([policy.trims([j.verdict]) for j in rated] for rated in (a, b))
    codes = 2 * np.array(says, int) + np.array(truth, int)  # 3: both trim, 2: the judge alone, 1: the reference alone
    found = []
    for w in (np.ones(len(weight)), weight):
        counts = _tables(codes, 4, w, items, seed)
        found += [_interval(_ratio(counts[:, 3], counts[:, 3] + counts[:, i])) for i in (2, 1)]
    return Quality(len(a), *found)


def _candidates(judgements: Sequence[Judgement]) -> list[Judgement]:
    return [j for j in judgements if j.role == "candidate"]


def _paired(
    judgements: Sequence[Judgement], one: str, other: str
) -> tuple[list[Judgement], list[Judgement], Float[np.ndarray, " features"], Int[np.ndarray, " features"]]:
    """Both raters' verdicts on the same features, their absolute effects, and which the first rater judged as one."""
    by_rater = {rater: {j.key: j for j in _candidates(judgements) if j.rater == rater} for rater in (one, other)}
    shared = sorted(by_rater[one].keys() & by_rater[other].keys())
    if not shared:
        raise JudgementError(f"{one!r} and {other!r} judged no feature in common")
    a, b = ([by_rater[rater][key] for key in shared] for rater in (one, other))
    effects = np.array([abs(j.effect) for j in a])
    names = [j.item or f"{j.site}/{j.feature}" for j in a]
    items = np.unique(names, return_inverse=True)[1]
    return a, b, effects / (effects.mean() or 1.0), items  # so that no total is small for its unit alone


def _tables(
    codes: Int[np.ndarray, " features"],
    size: int,
    weight: Float[np.ndarray, " features"],
    items: Int[np.ndarray, " features"],
    seed: int,
) -> Float[np.ndarray, "draws size"]:
    """Weight of the features of each code: of all features, then of each bootstrap resample of the items."""
    n = int(items.max()) + 1
    draws = np.ones((1, n))
    if n > 1:
        resampled = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        draws = np.concatenate([draws, resampled])
    return draws[:, items] @ (weight[:, None] * (codes[:, None] == np.arange(size)))


def _same(table: Float[np.ndarray, "draws verdict verdict"]) -> Float[np.ndarray, " draws"]:
    return _ratio(table.trace(axis1=1, axis2=2), table.sum((1, 2)))


def _kappa(table: Float[np.ndarray, "draws verdict verdict"]) -> Float[np.ndarray, " draws"]:
    """(observed - expected) / (1 - expected), the latter from how often each rater gives each verdict."""
    total = table.sum((1, 2))
    by_chance = _ratio((table.sum(1) * table.sum(2)).sum(1), total**2)
    return _ratio(_same(table) - by_chance, 1 - by_chance)


def _ratio(a: Float[np.ndarray, " draws"], b: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
    """NaN where the divisor is 0, up to rounding."""
    defined: Bool[np.ndarray, " draws"] = np.abs(b) > 1e-12
    return np.divide(a, b, out=np.full(len(a), np.nan), where=defined)


def _interval(draws: Float[np.ndarray, " draws"]) -> Interval:
    """The first is the value, the rest are its resamples; a few undefined ones are left out."""
    resampled = draws[1:]
    defined = np.isfinite(resampled)
    few = len(resampled) and defined.mean() < _FEWEST_DEFINED
    return interval(float(draws[0]), resampled if few else resampled[defined])
