"""Which nodes make a circuit: the strongest, those above a threshold, or those that a search from the output meets.

Sizes are mean absolute effects over examples: a node that helps in one example and hurts in the next matters to both,
so the sign is averaged only in what is reported.
"""

import heapq
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from circuits.circuit import Circuit, Node
from circuits.feature_acts import NodeScores
from saes.sites import Site


@dataclass
class Sizes:
    """Running means over examples of every node's effect and absolute effect, [places, F + 1] for each site."""

    examples: int = 0
    signed: dict[Site, Float[Tensor, "places f_plus_1"]] = field(default_factory=dict)
    absolute: dict[Site, Float[Tensor, "places f_plus_1"]] = field(default_factory=dict)

    def add(self, site: Site, scores: NodeScores) -> None:
        """Effects [batch, places, F] and [batch, places] of more examples at one site."""
        joined = scores.joined()
        for totals, values in ((self.signed, joined), (self.absolute, joined.abs())):
            totals[site] = totals[site] + values.sum(0) if site in totals else values.sum(0)

    def means(self) -> dict[Site, NodeScores]:
        """Mean signed effects, [places, F] and [places]."""
        return {
            site: NodeScores(s[:, :-1] / self.examples, s[:, -1] / self.examples) for site, s in self.signed.items()
        }

    def strongest(self, count: int, places: tuple[str, ...]) -> dict[Node, float]:
        """The `count` nodes, errors among them, of largest mean absolute effect; none without any effect."""
        every = torch.cat([a.flatten() for a in self.absolute.values()])
        if not len(every):
            return {}
        cut = float(every.topk(min(count, len(every))).values.min()) / self.examples
        return self.above(cut, places, at_least=True)

    def above(self, threshold: float, places: tuple[str, ...], *, at_least: bool = False) -> dict[Node, float]:
        """The nodes of larger mean absolute effect than `threshold`, with their mean effect."""
        nodes = {}
        for site, total in self.absolute.items():
            size, signed = total / self.examples, self.signed[site] / self.examples
            chosen = (size >= threshold if at_least else size > threshold) & (size > 0)
            error = size.shape[1] - 1
            for place, index in chosen.nonzero().tolist():
                node = Node(site.name, None if index == error else index, places[place])
                nodes[node] = float(signed[place, index])
        return nodes


def best_first(circuit: Circuit, nodes: int) -> Circuit:
    """The `nodes` nodes that a search from the output meets first, always going on through the strongest edge.

    The search begins with the output's own nodes in the order of their effects, which are their edges into the metric.
    A node without a strong path to the output is left out, however large its effect on its own.
    """
    into: Mapping[Node, list[tuple[float, Node]]] = defaultdict(list)
    for (up, down), effect in circuit.edges.items():
        into[down].append((-abs(effect), up))
    frontier = [(-abs(circuit.nodes[node]), node_key(node), node) for node in circuit.outputs()]
    heapq.heapify(frontier)
    met: dict[Node, float] = {}
    while frontier and len(met) < nodes:
        _, _, node = heapq.heappop(frontier)
        if node in met:
            continue
        met[node] = circuit.nodes[node]
        for size, up in into[node]:
            if up not in met:
                heapq.heappush(frontier, (size, node_key(up), up))
    return replace(circuit, nodes=met, edges={e: w for e, w in circuit.edges.items() if e[0] in met and e[1] in met})


def node_key(node: Node) -> tuple[str, int, str]:
    """An order of nodes that compares error nodes too."""
    return node.site, -1 if node.feature is None else node.feature, node.place
