"""Circuits of the same sites, dictionaries and places, compared and joined: diff, merge, average.

Sums are exact before they are rounded, so that no result depends on the order of the circuits, and equal circuits
average to themselves.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from typing import Any, Generic, TypeVar

import numpy as np
from scipy.stats import rankdata

from circuits.circuit import Circuit, CircuitError, Node

Key = TypeVar("Key", bound=Hashable)
Edge = tuple[Node, Node]


@dataclass(frozen=True)
class Compared(Generic[Key]):
    """Two sets of nodes, or of edges, with their effects."""

    only_first: Mapping[Key, float]
    only_second: Mapping[Key, float]
    both: Mapping[Key, tuple[float, float]]
    """effect in the first and in the second"""

    @classmethod
    def of(cls, first: Mapping[Key, float], second: Mapping[Key, float]) -> "Compared[Key]":
        return cls(
            {key: effect for key, effect in first.items() if key not in second},
            {key: effect for key, effect in second.items() if key not in first},
            {key: (effect, second[key]) for key, effect in first.items() if key in second},
        )

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.only_first or self.only_second or self.changed)

    @property
    def changed(self) -> dict[Key, float]:
        """Second minus first, where both have it and with different effects; the largest change first."""
        changes = {key: b - a for key, (a, b) in self.both.items() if a != b}
        return dict(sorted(changes.items(), key=lambda item: -abs(item[1])))

    @property
    def jaccard(self) -> float:
        """Share of the union that both have, in [0, 1]; 1 for two empty sets."""
        union = len(self.both) + len(self.only_first) + len(self.only_second)
        return len(self.both) / union if union else 1.0

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, of the signed effects of what both have; None with fewer than two, or if one side is constant."""
        first, second = ([pair[i] for pair in self.both.values()] for i in (0, 1))
        if len(set(first)) < 2 or len(set(second)) < 2:
            return None
        return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


@dataclass(frozen=True)
class Difference:
    """How two circuits differ."""

    nodes: Compared[Node]
    edges: Compared[Edge]

    def __bool__(self) -> bool:
        """Whether there is any difference."""
        return bool(self.nodes or self.edges)


def diff(first: Circuit, second: Circuit) -> Difference:
    """What only one of two circuits has, and what changed. CircuitError unless their nodes mean the same."""
    _check_alike((first, second))
    return Difference(Compared.of(first.nodes, second.nodes), Compared.of(first.edges, second.edges))


def merge(*circuits: Circuit) -> Circuit:
    """The union of the nodes and edges; an effect is the mean over the circuits that have the node or edge."""
    _check_alike(circuits)

    def mean(values: Iterable[tuple[int, float]]) -> float:
        exact = [Fraction(value) for _, value in values]
        return float(sum(exact) / len(exact))

    return _joined(circuits, 1, mean, {"merged": _sorted([c.provenance for c in circuits])})


def average(circuits: Sequence[Circuit], weights: Sequence[float] | None = None, *, at_least: int = 1) -> Circuit:
    """The weighted mean effect over all circuits, of the nodes and edges that at least `at_least` of them have.

    Where a circuit lacks a node or an edge its effect counts as 0: it was too small to be chosen there. So circuits of
    different examples are best weighted by their numbers of examples, which is one circuit of all of them but for that.
    An edge stays only between nodes that stay.
    """
    _check_alike(circuits)
    given = [1.0] * len(circuits) if weights is None else list(weights)
    if len(given) != len(circuits) or not all(isfinite(w) and w >= 0 for w in given) or not sum(given) > 0:
        raise CircuitError(f"weights are {given}: give {len(circuits)} numbers of 0 or more, not all 0")
    if not 1 <= at_least <= len(circuits):
        raise CircuitError(f"at_least is {at_least}: choose from 1 to the {len(circuits)} circuits")
    exact = [Fraction(w) for w in given]
    whole = sum(exact)

    def mean(values: Iterable[tuple[int, float]]) -> float:
        return float(sum(exact[i] * Fraction(value) for i, value in values) / whole)

    said = [{"weight": w, "provenance": dict(c.provenance)} for w, c in zip(given, circuits, strict=True)]
    return _joined(circuits, at_least, mean, {"averaged": _sorted(said), "at_least": at_least})


def _joined(
    circuits: Sequence[Circuit],
    at_least: int,
    mean: Callable[[Iterable[tuple[int, float]]], float],
    provenance: Mapping[str, Any],
) -> Circuit:
    nodes = _means([c.nodes for c in circuits], at_least, mean)
    edges = _means([c.edges for c in circuits], at_least, mean)
    between = {(up, down): effect for (up, down), effect in edges.items() if up in nodes and down in nodes}
    shared = {key: value for key, value in _shared(circuits).items() if key not in provenance}
    return Circuit(circuits[0].sites, nodes, between, {**shared, **provenance}, circuits[0].places)


def _means(
    maps: Sequence[Mapping[Key, float]], at_least: int, mean: Callable[[Iterable[tuple[int, float]]], float]
) -> dict[Key, float]:
    found: dict[Key, list[tuple[int, float]]] = {}
    for i, effects in enumerate(maps):
        for key, effect in effects.items():
            found.setdefault(key, []).append((i, effect))
    return {key: mean(values) for key, values in found.items() if len(values) >= at_least}


def _shared(circuits: Sequence[Circuit]) -> dict[str, Any]:
    """The entries of the provenance that all circuits agree on, such as the dictionaries."""
    first, *others = (c.provenance for c in circuits)
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}


def _sorted(said: list[Any]) -> list[Any]:
    return sorted(said, key=lambda one: json.dumps(one, sort_keys=True, default=str))


def _check_alike(circuits: Sequence[Circuit]) -> None:
    """CircuitError unless there are circuits and a node means the same in all of them."""
    if not circuits:
        raise CircuitError("there is no circuit: give at least one")
    first = circuits[0]
    for i, other in enumerate(circuits[1:], 2):
        if other.sites != first.sites:
            names = [", ".join(site.name for site in c.sites) for c in (first, other)]
            raise CircuitError(f"circuit 1 has the sites {names[0]} and circuit {i} {names[1]}: they must be the same")
        if other.places != first.places:
            raise CircuitError(
                f"circuit 1 has the places {', '.join(first.places)} and circuit {i} {', '.join(other.places)}: "
                "they must be the same"
            )
        mine, theirs = (c.provenance.get("dictionaries") or {} for c in (first, other))
        for name in mine if theirs else ():
            if mine[name] != theirs.get(name):
                raise CircuitError(
                    f"circuits 1 and {i} were found with different dictionaries at {name}: "
                    "their feature numbers mean other features"
                )
