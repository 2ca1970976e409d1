"""A sparse feature circuit: chosen features and error nodes at places, their effects, and the edges between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import networkx as nx
import torch
from jaxtyping import Float
from torch import Tensor

from circuits.ablation import Kept
from circuits.edges import Chosen
from circuits.feature_acts import Dictionaries
from circuits.places import EVERYWHERE
from saes.sites import Site


class CircuitError(ValueError):
    """A circuit that is not whole, or circuits that do not fit each other or their dictionaries."""


@dataclass(frozen=True)
class Node:
    """A feature of a site, or its error node (feature None), at a place: all positions, one of them, or a span."""

    site: str
    feature: int | None
    place: str = EVERYWHERE

    def __str__(self) -> str:
        name = f"{self.site}/{'error' if self.feature is None else self.feature}"
        return name if self.place == EVERYWHERE else f"{name}@{self.place}"


@dataclass(frozen=True)
class Circuit:
    """Nodes with their mean signed effects, and signed edges upstream -> downstream.

    Effects are patch minus clean: what the metric gains when the node alone takes its patch value. `sites` are in
    forward order, `places` in the order of positions. `provenance` says how it was found.
    """

    sites: tuple[Site, ...]
    nodes: Mapping[Node, float]
    edges: Mapping[tuple[Node, Node], float]
    provenance: Mapping[str, Any]
    places: tuple[str, ...] = (EVERYWHERE,)
    _numbers: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._numbers.update({name: i for i, name in enumerate(self.places)})

    def chosen(self) -> dict[Site, Chosen]:
        """The nodes by site: features in the order of places and numbers, then errors."""
        return {site: self._chosen(site) for site in self.sites}

    def _chosen(self, site: Site) -> Chosen:
        nodes = [node for node in self.nodes if node.site == site.name]
        features = sorted((self._numbers[n.place], n.feature) for n in nodes if n.feature is not None)
        errors = sorted(self._numbers[n.place] for n in nodes if n.feature is None)

        def index(values: list[int]) -> Tensor:
            return torch.tensor(values, dtype=torch.long)

        return Chosen(index([f for _, f in features]), index([p for p, _ in features]), index(errors))

    def kept(self, dictionaries: Dictionaries) -> dict[Site, Kept]:
        """The nodes as masks over whole dictionaries, for ablation."""
        masks = {}
        for site, nodes in self.chosen().items():
            mask = Kept.of_all(dictionaries[site], len(self.places), False)
            mask.features[nodes.places, nodes.features] = True
            mask.error[nodes.errors] = True
            masks[site] = mask
        return masks

    def outputs(self) -> list[Node]:
        """The nodes of the last site, which act on the metric with nothing in between."""
        return [node for node in self.nodes if node.site == self.sites[-1].name]

    def pruned(self, edges: int) -> "Circuit":
        """The strongest `edges` edges, and of the nodes those that still reach the last site through them."""
        strongest = sorted(self.edges, key=lambda e: abs(self.edges[e]), reverse=True)[:edges]
        graph = nx.DiGraph(strongest)
        reaching = set(self.outputs())
        for node in self.outputs():
            if node in graph:
                reaching |= nx.ancestors(graph, node)
        return replace(
            self,
            nodes={n: e for n, e in self.nodes.items() if n in reaching},
            edges={e: self.edges[e] for e in strongest if e[0] in reaching and e[1] in reaching},
            provenance={**self.provenance, "edges_kept": edges},
        )

    def with_provenance(self, said: Mapping[str, Any]) -> "Circuit":
        """The same circuit that says more about how it was found (circuits/provenance.py)."""
        return replace(self, provenance={**self.provenance, **said})

    def strongest(self, nodes: int, edges: int) -> "Circuit":
        """The strongest nodes and the strongest edges among them: what a picture can show."""
        kept = dict(sorted(self.nodes.items(), key=lambda item: -abs(item[1]))[:nodes])
        among = [e for e in self.edges if e[0] in kept and e[1] in kept]
        strongest = sorted(among, key=lambda e: -abs(self.edges[e]))[:edges]
        return replace(self, nodes=kept, edges={e: self.edges[e] for e in strongest})


def nodes_of(site: Site, chosen: Chosen, places: tuple[str, ...]) -> list[Node]:
    """The chosen nodes of a site in the order of its rows and columns in edge matrices."""
    features = zip(chosen.features.tolist(), chosen.places.tolist(), strict=True)
    return [Node(site.name, f, places[p]) for f, p in features] + [
        Node(site.name, None, places[p]) for p in chosen.errors.tolist()
    ]


def edges_between(
    matrices: Mapping[tuple[Site, Site], Float[Tensor, "down up"]],
    chosen: Mapping[Site, Chosen],
    places: tuple[str, ...],
) -> dict[tuple[Node, Node], float]:
    """Matrices over chosen nodes as a mapping, without the zero entries."""
    names = {site: nodes_of(site, some, places) for site, some in chosen.items()}
    edges = {}
    for (up, down), matrix in matrices.items():
        at = matrix.nonzero()
        values = matrix[at[:, 0], at[:, 1]].tolist()
        edges |= {(names[up][u], names[down][d]): v for (d, u), v in zip(at.tolist(), values, strict=True)}
    return edges
