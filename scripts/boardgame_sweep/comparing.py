"""Two types of dictionaries at equal L0, on the same weights of the games.

Where two dictionaries that were steered to the same L0 came out apart, one of them is compared with its rivals'
neighbours above and below, interpolated on log L0. Where it has no neighbour on one side, the pair is not counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

from boardgame_sweep.measuring import interval_of
from boardgames.bootstrap import Interval

Record = Mapping[str, Any]
Scores = Mapping[str, Mapping[str, Any]]

COMPARISONS = (
    ("p_anneal", "standard", "p-annealing (ours) against L1"),
    ("p_anneal_original", "standard", "the original's p-annealing against L1"),
    ("p_anneal", "p_anneal_original", "our p-annealing against the original's"),
    ("gated_p_anneal", "gated", "gated p-annealing against Gated"),
    ("p_anneal", "topk", "p-annealing (ours) against TopK"),
)
EQUAL = 1.02  # ratio of two L0s that are called equal


@dataclass(frozen=True)
class Side:
    """A dictionary, or a mixture of two neighbours of one type: folders with weights that add up to 1."""

    parts: Sequence[tuple[str, float]]
    l0: float

    def score(self, scores: Scores, level: str, kind: str) -> Interval:
        found = [(interval_of(scores[folder], level, kind), weight) for folder, weight in self.parts]
        return Interval(sum(i.score * w for i, w in found), sum(i.samples * w for i, w in found))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pair:
    """Two sides, and whether their L0s are equal (or made so)."""

    record: Record
    one: Side
    other: Side
    counted: bool

    def difference(self, scores: Scores, level: str, kind: str) -> Interval:
        return self.one.score(scores, level, kind) - self.other.score(scores, level, kind)

    @property
    def interpolated(self) -> bool:
        return len(self.one.parts) + len(self.other.parts) > 2


def pairs(trained: Sequence[Record], scores: Scores, one: str, other: str) -> Iterator[Pair]:
    """Of every target, width and seed the dictionaries of two types, at equal L0 where that can be had."""

    def l0(record: Record) -> float:
        return float(scores[record["folder"]]["faithfulness"]["l0"])

    def family(kind: str, like: Record) -> list[Record]:
        same = [r for r in trained if r["type"] == kind and all(r[k] == like[k] for k in ("expansion", "seed"))]
        return sorted(same, key=l0)

    def alone(record: Record) -> Side:
        return Side([(record["folder"], 1.0)], l0(record))

    def between(records: Sequence[Record], at: float) -> Side | None:
        for low, high in pairwise(records):
            if l0(low) <= at <= l0(high) and l0(low) < l0(high):
                share = log(at / l0(low)) / log(l0(high) / l0(low))
                return Side([(low["folder"], 1 - share), (high["folder"], share)], at)
        return None

    for a in (r for r in trained if r["type"] == one):
        for b in (r for r in family(other, a) if r["target_l0"] == a["target_l0"]):
            if max(l0(a), l0(b)) <= EQUAL * min(l0(a), l0(b)):
                yield Pair(a, alone(a), alone(b), True)
            elif (rival := between(family(other, a), l0(a))) is not None:
                yield Pair(a, alone(a), rival, True)
            elif (ours := between(family(one, a), l0(b))) is not None:
                yield Pair(a, ours, alone(b), True)
            else:
                yield Pair(a, alone(a), alone(b), False)
