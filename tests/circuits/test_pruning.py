"""Influence, pruning and scores against slow dense references, and on graphs whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.graph import AttributionGraph
from circuits.influence import Edges, total_influence
from circuits.pruning import prune, scores
from tests.circuits.graphs_for_tests import random_graph

SEEDS = range(6)


def matrix_of(graph: AttributionGraph) -> np.ndarray:
    matrix = np.zeros((len(graph), len(graph)))
    for target, source, weight in zip(*(x.tolist() for x in vars(graph.edges).values()), strict=True):
        matrix[target, source] = weight
    return matrix


def shares_of(matrix: np.ndarray) -> np.ndarray:
    sums = np.abs(matrix).sum(1, keepdims=True)
    return np.divide(np.abs(matrix), sums, out=np.zeros_like(matrix), where=sums > 0)


def start_of(graph: AttributionGraph) -> np.ndarray:
    start = np.zeros(len(graph))
    start[graph.first_logit :] = graph.logit_probabilities.numpy()
    return start


def influence_of(matrix: np.ndarray, start: np.ndarray) -> np.ndarray:
    """p ((I - A)^-1 - I): the sum of the series, by solving instead of adding."""
    return np.linalg.solve((np.eye(len(start)) - shares_of(matrix)).T, start) - start


def smallest_set(scored: dict, share: float) -> set:
    """The best ones, one after the other, until they have the share."""
    kept, total, running = set(), sum(scored.values()), 0.0
    for key in sorted(scored, key=scored.__getitem__, reverse=True):
        kept.add(key)
        running += scored[key]
        if running / total >= share:
            break
    return kept


def pruned_slowly(graph: AttributionGraph, node_share: float, edge_share: float) -> tuple[set, set]:
    matrix, start = matrix_of(graph), start_of(graph)
    influence = influence_of(matrix, start)
    nodes = smallest_set(dict(enumerate(influence)), node_share) | set(range(graph.first_token, len(graph)))
    inside = np.zeros_like(matrix)
    for target, source in zip(*matrix.nonzero(), strict=True):
        if target in nodes and source in nodes:
            inside[target, source] = matrix[target, source]
    reach = influence_of(inside, start) + start
    weights = shares_of(inside) * reach[:, None]
    edges = smallest_set({(t, s): weights[t, s] for t, s in zip(*inside.nonzero(), strict=True)}, edge_share)
    while True:  # one node at a time
        for node in sorted(nodes):
            entered = any(t == node for t, _ in edges) or node >= graph.first_error
            left = any(s == node for _, s in edges) or node >= graph.first_token
            if not (entered and left):
                nodes.discard(node)
                edges = {(t, s) for t, s in edges if node not in (t, s)}
                break
        else:
            return nodes, edges


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("shares", [(0.8, 0.98), (0.5, 0.6), (0.95, 0.3)])
def test_pruning_equals_the_slow_reference(seed, shares):
    graph = random_graph(seed)
    nodes, edges = pruned_slowly(graph, *shares)
    kept = prune(graph, *shares)
    assert set(kept.nodes.nonzero().flatten().tolist()) == nodes
    among = graph.edges.take(kept.edges)
    assert set(zip(among.targets.tolist(), among.sources.tolist(), strict=True)) == edges
    assert len(nodes) < len(graph) and len(edges) < len(graph.edges)
    np.testing.assert_allclose(kept.influence, influence_of(matrix_of(graph), start_of(graph)), atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_cumulative_influence_is_that_of_all_nodes_at_least_as_influential(seed):
    kept = prune(random_graph(seed))
    for i in kept.influence.nonzero().flatten().tolist():
        above = kept.influence[kept.influence >= kept.influence[i]].sum() / kept.influence.sum()
        assert float(kept.cumulative[i]) == pytest.approx(float(above))


@pytest.mark.parametrize("seed", SEEDS)
def test_scores_equal_their_definition(seed):
    graph = random_graph(seed)
    matrix, start = matrix_of(graph), start_of(graph)
    influence = influence_of(matrix, start)
    errors = slice(graph.first_error, graph.first_token)
    tokens = influence[graph.first_token : graph.first_logit].sum()
    explained = 1 - shares_of(matrix)[:, errors].sum(1)
    found = scores(graph)
    assert found.replacement == pytest.approx(tokens / (tokens + influence[errors].sum()))
    assert found.completeness == pytest.approx((explained * (influence + start)).sum() / (influence + start).sum())
    assert 0 < found.replacement < found.completeness < 1


def test_a_graph_without_errors_scores_one_and_one_of_errors_alone_zero():
    graph = random_graph()
    error = (graph.edges.sources >= graph.first_error) & (graph.edges.sources < graph.first_token)
    token = (graph.edges.sources >= graph.first_token) & (graph.edges.sources < graph.first_logit)
    perfect = replace(graph, edges=graph.edges.take(~error))
    assert scores(perfect).replacement == pytest.approx(1) and scores(perfect).completeness == pytest.approx(1)
    opaque = replace(graph, edges=graph.edges.take(error))
    assert scores(opaque).replacement == 0
    assert scores(replace(graph, edges=graph.edges.take(~token))).replacement == 0


def test_what_the_thresholds_mean_at_their_ends():
    graph = random_graph()
    graph = replace(graph, edges=graph.edges.take(graph.edges.targets >= graph.first_logit))  # logits' own sources
    everything = prune(graph, 1.0, 1.0)
    features = graph.edges.sources < graph.first_error  # which nothing enters here
    assert bool(features.any()) and bool((everything.edges == ~features).all())
    least = prune(graph, 0.0, 0.0)
    assert int(least.edges.sum()) <= 1 and bool(least.nodes[graph.first_token :].all())
    for shares, message in (((1.1, 0.5), "node_threshold is 1.1"), ((0.5, -0.1), "edge_threshold is -0.1")):
        with pytest.raises(ValueError, match=message):
            prune(graph, *shares)


@pytest.mark.parametrize("seed", SEEDS)
def test_more_is_kept_at_higher_thresholds_and_nothing_dangles(seed):
    graph = random_graph(seed)
    small, large = prune(graph, 0.6), prune(graph, 0.9)
    assert set(small.nodes.nonzero().flatten().tolist()) <= set(large.nodes.nonzero().flatten().tolist())
    ends = graph.edges.take(large.edges)
    targets, sources = set(ends.targets.tolist()), set(ends.sources.tolist())
    for node in large.nodes[: graph.first_token].nonzero().flatten().tolist():
        assert node in sources and (node in targets or node >= graph.first_error)
    assert (targets | sources) <= set(large.nodes.nonzero().flatten().tolist())


def test_influence_in_a_circle_has_no_end():
    edges = Edges(torch.tensor([0, 1]), torch.tensor([1, 0]), torch.ones(2))
    with pytest.raises(ValueError, match="run in a circle"):
        total_influence(edges, torch.tensor([1.0, 0.0]))
