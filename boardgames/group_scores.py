"""Scores of groups of properties, and their means over several groups; boardgames/scoring.py computes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from boardgames.bootstrap import Interval, mean
from boardgames.firing import THRESHOLDS


@dataclass(frozen=True)
class GroupScore:
    """One group of properties; P columns, of which those count that occur on the scoring split."""

    name: str
    columns: tuple[str, ...]
    occurs: Bool[np.ndarray, " property"]
    f1: Float[np.ndarray, " property"]
    """of the chosen detector on the scoring split; 0 for a property that never occurs"""
    feature: Int[np.ndarray, " property"]
    """-1 where no feature has a true positive on the selection split"""
    threshold: Int[np.ndarray, " property"]
    """index into THRESHOLDS"""
    always_on_f1: Float[np.ndarray, " property"]
    """of a feature that always fires"""
    coverage: Interval
    always_on: float
    """coverage of a feature that always fires"""
    permuted: float | None
    """coverage that the same features reach on permuted labels, chosen and scored in the same way; None of a probe"""
    reconstruction: Interval
    reconstruction_threshold: int | None
    """index into THRESHOLDS; None of a probe, which has no features"""
    reconstruction_floor: float
    """of a feature that always fires"""
    labelled_features: int | None
    """features with a label at that threshold"""
    f1_bounds: Float[np.ndarray, "property 2"] | None = None
    """of each property, where they were asked for"""

    @property
    def limit(self) -> float:
        """The share of properties that occur on the scoring split: the most that the paper's coverage could be."""
        return float(self.occurs.mean())

    def to_json(self) -> dict[str, Any]:
        return {
            "properties": len(self.columns),
            "occurring": int(self.occurs.sum()),
            "occurrence_limit": self.limit,
            **Summary.of(self).to_json(),
            "reconstruction_threshold": None
            if self.reconstruction_threshold is None
            else round(float(THRESHOLDS[self.reconstruction_threshold]), 1),
            "labelled_features": self.labelled_features,
        }

    def best(self) -> list[dict[str, Any]]:
        """Every property that occurs, with its detector."""
        return [
            {
                "property": self.columns[p],
                "feature": int(self.feature[p]) if self.feature[p] >= 0 else None,
                "threshold": round(float(THRESHOLDS[self.threshold[p]]), 1) if self.feature[p] >= 0 else None,
                "f1": float(self.f1[p]),
                "always_on": float(self.always_on_f1[p]),
                **(
                    {}
                    if self.f1_bounds is None
                    else dict(zip(("low", "high"), self.f1_bounds[p].tolist(), strict=True))
                ),
            }
            for p in np.flatnonzero(self.occurs)
        ]


@dataclass(frozen=True)
class Summary:
    """One group, or the plain mean of several, each of weight 1 whatever its size, without those that never occur."""

    coverage: Interval
    reconstruction: Interval
    always_on: float
    permuted: float | None
    reconstruction_floor: float
    groups: int = 1
    """that occur"""

    @classmethod
    def of(cls, *groups: GroupScore) -> "Summary":
        groups = tuple(g for g in groups if g.occurs.any()) or groups
        chance = [g.permuted for g in groups if g.permuted is not None]
        return cls(
            mean([g.coverage for g in groups]),
            mean([g.reconstruction for g in groups]),
            float(np.mean([g.always_on for g in groups])),
            float(np.mean(chance)) if len(chance) == len(groups) else None,
            float(np.mean([g.reconstruction_floor for g in groups])),
            len(groups),
        )

    @property
    def floor(self) -> float:
        return max(self.always_on, self.permuted or 0.0)

    @property
    def normalised(self) -> float:
        """Coverage as 0 at the floor, 1 for perfect detectors."""
        return normalise(self.coverage.score, self.floor)

    def to_json(self) -> dict[str, Any]:
        return {
            "coverage": self.coverage.to_json(),
            "coverage_normalised": self.normalised,
            "floors": {"always_on": self.always_on, "permuted": self.permuted},
            "reconstruction": self.reconstruction.to_json(),
            "reconstruction_normalised": normalise(self.reconstruction.score, self.reconstruction_floor),
            "reconstruction_floor": self.reconstruction_floor,
            "groups": self.groups,
        }


def normalise(score: float, floor: float) -> float:
    """(score - floor) / (1 - floor); 0 where nothing is above the floor."""
    return (score - floor) / (1 - floor) if floor < 1 else 0.0


def strategy_mean(scores: Mapping[str, GroupScore], names: Sequence[str]) -> Summary:
    """The mean over several groups (the paper's strategy scores)."""
    return Summary.of(*(scores[name] for name in names))
