"""How well named squares agree with causal ones, pair by pair; the best possible, chance, and naming all beside it."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from circuit_truth.naming import NodeTable

NUMBERS = ("precision", "recall", "f1", "auroc", "ceiling f1", "ceiling auroc", "chance f1", "all f1", "causal share",
           "differing share", "error mass", "unnamed mass", "elsewhere mass", "named per pair")  # fmt: skip


@dataclass(frozen=True)
class Truth:
    """By pair, the squares that are causal, and those that differ and are not; all others do not count."""

    causal: Bool[np.ndarray, "pairs 64"]
    other: Bool[np.ndarray, "pairs 64"]

    @property
    def pairs(self) -> Int[np.ndarray, " counted"]:
        """Pairs that have both."""
        return np.flatnonzero(self.causal.any(1) & self.other.any(1))


def agreement(table: NodeTable, circuit: Int[np.ndarray, " chosen"], truth: Truth) -> Mapping[str, float]:
    """Means over pairs of NUMBERS; NaN everywhere if no pair counts.

    A square's score is the sum of |effect| of the circuit's nodes that name it; it is named if that is not 0. The
    ceiling names every causal square that some feature which moves in the pair could name, and nothing else; chance
    names as many squares as the circuit, at random among those that count. The causal share is that of the mass which
    names differing squares, spread evenly over a node's squares.
    """
    rows = []
    weight = np.abs(table.effects)
    for pair in truth.pairs:
        counted = truth.causal[pair] | truth.other[pair]
        causal = truth.causal[pair][counted]
        depends = table.depends[pair][:, counted].astype(float)
        mass = weight[pair, circuit]
        score = mass @ depends[circuit]
        named = score > 0
        nameable = (depends[weight[pair] > 0].any(0)) & causal
        hits, n, true = int((named & causal).sum()), int(named.sum()), int(causal.sum())
        spread = mass @ (depends[circuit] / np.maximum(depends[circuit].sum(1, keepdims=True), 1))
        total, kinds = max(mass.sum(), 1e-30), np.array(table.kind)[circuit]
        inside = depends[circuit].any(1)
        reachable = int(nameable.sum())
        rows.append(
            (
                hits / n if n else 0.0,
                hits / true,
                2 * hits / (n + true),
                auroc(score, causal),
                2 * reachable / (reachable + true),
                auroc(nameable.astype(float), causal),
                2 * n * true / len(causal) / (n + true),
                2 * true / (len(causal) + true),
                float(spread[causal].sum() / max(spread.sum(), 1e-30)),
                true / len(causal),
                float(mass[kinds == "error"].sum() / total),
                float(mass[kinds == "unnamed"].sum() / total),
                float(mass[~inside & (kinds != "error") & (kinds != "unnamed")].sum() / total),
                float(n),
            )
        )
    means = np.mean(rows, 0) if rows else np.full(len(NUMBERS), np.nan)
    return dict(zip(NUMBERS, means.tolist(), strict=True))


def auroc(score: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"]) -> float:
    """Chance that a positive scores higher than a negative, ties counted half (Mann-Whitney)."""
    hits, misses = int(positive.sum()), int((~positive).sum())
    return float((rankdata(score)[positive].sum() - hits * (hits + 1) / 2) / (hits * misses))
