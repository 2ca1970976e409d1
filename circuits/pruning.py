"""Which part of an attribution graph carries most of the influence on the logits, and how much of it is explained.

Thresholds and order as in Ameisen et al. 2025 (sections 3.5 and B) and circuit-tracer: nodes are chosen by influence,
edges among them by influence, then nodes that nothing passes through are dropped until there is none. The scores are
those of circuit-tracer since 0.2.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuits.graph import AttributionGraph
from circuits.influence import cumulative, cut_at, total_influence


@dataclass(frozen=True)
class Pruned:
    """What is kept of a graph."""

    nodes: Bool[Tensor, " node"]
    edges: Bool[Tensor, " edge"]
    influence: Float[Tensor, " node"]
    """of every node, on the logits weighted by their probabilities; 0 for the logits themselves"""
    cumulative: Float[Tensor, " node"]
    """share of all influence that is in nodes at least as influential: what viewers cut at"""


@dataclass(frozen=True)
class GraphScores:
    """Between 0 and 1; 1 where no error node matters."""

    replacement: float
    """of the influence of tokens and errors, the share of tokens: paths that pass through features all the way"""
    completeness: float
    """share of a node's input that is not from errors, averaged over nodes by influence"""


def prune(graph: AttributionGraph, node_threshold: float = 0.8, edge_threshold: float = 0.98) -> Pruned:
    """The smallest sets of nodes, then edges, with these shares of the influence; tokens and logits always stay."""
    for name, share in (("node_threshold", node_threshold), ("edge_threshold", edge_threshold)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} is {share}: choose a share between 0 and 1")
    start = _start(graph)
    influence = total_influence(graph.edges, start)
    nodes = influence >= cut_at(influence, node_threshold)
    nodes[graph.first_token :] = True
    inside = (nodes[graph.edges.targets] & nodes[graph.edges.sources]).nonzero().flatten()
    among = graph.edges.take(inside)
    edges = torch.zeros(len(graph.edges), dtype=torch.bool)
    if len(among):
        reach = total_influence(among, start) + start
        scores = among.shares(len(graph)).to(start.dtype) * reach[among.targets]
        edges[inside[scores >= cut_at(scores, edge_threshold)]] = True
    _drop_dead_ends(graph, nodes, edges)
    falling, order = influence.sort(descending=True, stable=True)
    running = torch.empty_like(influence)
    running[order] = cumulative(falling)
    return Pruned(nodes, edges, influence, running)


def scores(graph: AttributionGraph) -> GraphScores:
    """How much of the graph is not error nodes."""
    start = _start(graph)
    influence = total_influence(graph.edges, start)
    errors = slice(graph.first_error, graph.first_token)
    of_tokens, of_errors = influence[graph.first_token : graph.first_logit].sum(), influence[errors].sum()
    from_errors = (graph.edges.sources >= graph.first_error) & (graph.edges.sources < graph.first_token)
    shares = graph.edges.shares(len(graph)).to(start.dtype) * from_errors
    unexplained = torch.zeros_like(start).index_add(0, graph.edges.targets, shares)
    reach = influence + start
    return GraphScores(
        float(of_tokens / (of_tokens + of_errors)), float(((1 - unexplained) * reach).sum() / reach.sum())
    )


def _start(graph: AttributionGraph) -> Float[Tensor, " node"]:
    """Where influence starts: the logits, by their probabilities."""
    start = torch.zeros(len(graph), dtype=torch.float64)
    start[graph.first_logit :] = graph.logit_probabilities.double()
    return start


def _drop_dead_ends(graph: AttributionGraph, nodes: Tensor, edges: Tensor) -> None:
    """Drop, until there is none, features that nothing enters, and features and errors that nothing leaves."""
    while True:
        edges &= nodes[graph.edges.targets] & nodes[graph.edges.sources]
        left, entered = torch.zeros_like(nodes), torch.zeros_like(nodes)
        left[graph.edges.sources[edges]] = True
        entered[graph.edges.targets[edges]] = True
        entered[graph.first_error :] = True
        left[graph.first_token :] = True
        dead = nodes & ~(left & entered)
        if not dead.any():
            return
        nodes &= ~dead
