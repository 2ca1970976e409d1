"""Circuits of edges: cutting against a transformer written out by hand, selection against slow searches, areas."""

from dataclasses import replace

import networkx
import numpy as np
import pytest
import torch

from circuits.areas import MIB_SHARES, cmd, cpr
from circuits.component_states import read_states
from circuits.components import ComponentError, Components
from circuits.edge_circuits import circuit_metric, edge_curve
from circuits.edge_selection import greedy_edges, prune, top_edges
from circuits.metrics import LogitDifference, measure
from circuits.places import Places
from tests.circuits.component_models import KINDS, component_model, uneven
from tests.circuits.plain_transformer import run

METRIC = LogitDifference()


def some_edges(graph, seed=0, share=0.5):
    generator = torch.Generator().manual_seed(seed)
    return graph.real & (torch.rand(graph.real.shape, generator=generator) < share)


def by_hand(model, graph, examples, kept_at):
    """The metric with the edges cut that `kept_at(position)` [sources, destinations] leaves out, within this run."""
    patch = run(model, examples.patch)[1]
    kept = torch.stack([kept_at(position) for position in range(examples.clean.shape[1])])

    def change(destination, written):
        v = graph.destinations.index(destination)
        parts = [
            (~kept[:, u, v])[None, :, None] * (patch[source] - written[source])
            for u, source in enumerate(graph.sources)
            if graph.real[u, v]
        ]
        return torch.stack(parts).sum(0)

    logits, _ = run(model, examples.clean, change=change)
    return METRIC(logits[torch.arange(len(logits)), examples.position], examples)


@pytest.mark.parametrize("kind", KINDS)
def test_cut_edges_are_those_of_a_plain_transformer(kind):
    model, examples = component_model(kind), uneven()
    graph = Components.of(model)
    for seed in range(3):
        kept = some_edges(graph, seed)
        expected = by_hand(model, graph, examples, lambda _, kept=kept: kept)
        assert torch.allclose(circuit_metric(graph, examples, METRIC, kept, batch_size=2), expected, atol=1e-11)


def test_edges_are_cut_at_the_places_of_a_circuit():
    model, examples = component_model("llama grouped"), uneven()
    graph = Components.of(model)
    starts = torch.tensor([[1, 3, int(n)] for n in examples.ends])
    spans = replace(examples, places=Places.spans(("a", "b"), starts, examples.clean.shape[1]))
    kept = torch.stack([some_edges(graph, 1), some_edges(graph, 2)])
    # the first position is of no span: it keeps everything
    expected = by_hand(model, graph, examples, lambda p: graph.real if p == 0 else kept[0 if p < 3 else 1])
    assert torch.allclose(circuit_metric(graph, spans, METRIC, kept), expected, atol=1e-11)
    with pytest.raises(ComponentError, match=r"a circuit of shape \[3, 9, 27\]"):
        circuit_metric(graph, spans, METRIC, torch.ones(3, 9, 27, dtype=torch.bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", [True, False])
def test_everything_is_the_model_and_nothing_the_counterfactual(kind, heads):
    graph, examples = Components.of(component_model(kind), heads=heads), uneven()
    assert examples.patch is not None
    clean = measure(graph.model, METRIC, examples.clean, examples)
    assert torch.equal(circuit_metric(graph, examples, METRIC, graph.real), clean)
    assert torch.equal(circuit_metric(graph, examples, METRIC, torch.ones_like(graph.real)), clean)
    nothing = circuit_metric(graph, examples, METRIC, torch.zeros_like(graph.real))
    assert torch.allclose(nothing, measure(graph.model, METRIC, examples.patch, examples), atol=1e-11)
    assert not torch.allclose(nothing, clean, atol=1e-3)


def test_zero_and_given_end_points():
    graph, examples = Components.of(component_model("gpt2")), uneven()
    kept = some_edges(graph)
    states = read_states(graph, examples.patch)
    given = circuit_metric(graph, examples, METRIC, kept, end=states)
    assert torch.allclose(given, circuit_metric(graph, examples, METRIC, kept), atol=1e-12)
    single = replace(examples, patch=None)
    zero = circuit_metric(graph, single, METRIC, kept, end="zero")
    assert torch.allclose(
        zero, circuit_metric(graph, single, METRIC, kept, end=states.map(torch.zeros_like)), atol=1e-12
    )
    everything_gone = circuit_metric(graph, single, METRIC, torch.zeros_like(graph.real), end="zero")
    model = graph.model  # what is left of the stream are the biases of the heads' output projections
    left = sum(block.attn.c_proj.bias for block in model.transformer.h)
    logits = model.lm_head(model.transformer.ln_f(left)).expand(3, -1)
    assert torch.allclose(everything_gone, METRIC(logits, examples), atol=1e-11)


@pytest.mark.parametrize("absolute", [True, False])
def test_selection_against_slow_searches(absolute):
    graph = Components.of(component_model("neox parallel"))
    scores = torch.randn(graph.real.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    rank = {(u, v): float(scores[u, v].abs() if absolute else scores[u, v]) for u, v in graph.real.nonzero().tolist()}
    whose = [name.split("<")[0] for name in graph.destinations]
    chosen, reached = [], {"logits"}
    for count in range(1, len(rank) + 1):
        best = max((e for e in rank if e not in chosen and whose[e[1]] in reached), key=rank.__getitem__)
        chosen.append(best)
        reached.add(graph.sources[best[0]])
        if count in (1, 5, 17, 30, len(rank)):
            top = sorted(rank, key=rank.__getitem__, reverse=True)[:count]
            assert {tuple(e) for e in top_edges(graph, scores, count, absolute=absolute).nonzero().tolist()} == set(top)
            greedy = greedy_edges(graph, scores, count, absolute=absolute)
            assert {tuple(e) for e in greedy.nonzero().tolist()} == set(chosen)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.4, 0.7])
def test_pruning_leaves_the_edges_on_paths_from_the_input_to_the_end(share):
    graph = Components.of(component_model("gpt2", 2))
    for seed in range(8):
        kept = some_edges(graph, seed, share)
        net = networkx.DiGraph([("input", "input"), ("logits", "logits")])
        edges = [(graph.sources[u], graph.destinations[v].split("<")[0], (u, v)) for u, v in kept.nonzero().tolist()]
        net.add_edges_from((up, down) for up, down, _ in edges)
        from_input, to_end = (
            networkx.descendants(net, "input") | {"input"},
            networkx.ancestors(net, "logits") | {"logits"},
        )
        expected = {e for up, down, e in edges if up in from_input and down in to_end}
        assert {tuple(e) for e in prune(graph, kept).nonzero().tolist()} == expected
    assert torch.equal(prune(graph, graph.real), graph.real)


def test_selection_of_what_cannot_be_is_refused():
    graph = Components.of(component_model("gpt2"))
    scores = torch.zeros(graph.real.shape)
    with pytest.raises(ComponentError, match="1000 edges: this graph has"):
        top_edges(graph, scores, 1000)
    with pytest.raises(ComponentError, match="-1 edges"):
        greedy_edges(graph, scores, -1)
    with pytest.raises(ComponentError, match=r"edge scores are \[3, 3\]"):
        top_edges(graph, torch.zeros(3, 3), 1)
    with pytest.raises(ComponentError, match="NaN"):
        top_edges(graph, scores / 0, 1)


def test_curves_and_their_areas():
    graph, examples = Components.of(component_model("gpt2")), uneven()
    order = (
        torch.randperm(graph.real.numel(), generator=torch.Generator().manual_seed(1)).view(graph.real.shape).double()
    )
    curve = edge_curve(graph, examples, METRIC, lambda n: top_edges(graph, order, n), MIB_SHARES)
    assert curve.faithfulness[-1] == 1.0 and curve.sizes[-1] == curve.edges == int(graph.real.sum())
    assert curve.sizes[0] == 0 and curve.faithfulness[0] == 0.0
    half = circuit_metric(graph, examples, METRIC, top_edges(graph, order, curve.edges // 2)).mean()
    assert np.isclose(curve.faithfulness[-2], (float(half) - curve.nothing) / (curve.model - curve.nothing))
    assert np.isclose(curve.cpr(nominal=True), np.trapezoid(curve.faithfulness, MIB_SHARES))
    assert np.isclose(curve.cmd(nominal=True), np.trapezoid(np.abs(1 - np.array(curve.faithfulness)), MIB_SHARES))
    x = np.array(curve.sizes) / curve.edges
    assert np.isclose(curve.cpr(), np.trapezoid(curve.faithfulness, x))
    same = replace(examples, patch=examples.clean)
    with pytest.raises(ComponentError, match="nothing to be faithful to"):
        edge_curve(graph, same, METRIC, lambda n: top_edges(graph, order, n), (0.5,))


def test_areas_have_the_values_that_can_be_worked_out():
    assert cpr([0, 1], [1, 1]) == 1 and cmd([0, 1], [1, 1]) == 0
    assert cpr([0, 10], [0, 1], 10) == 0.5 and cmd([0, 10], [0, 1], 10) == 0.5
    assert np.isclose(cpr([0, 3, 15], [0, 1, 1], 15, axis="log"), 0.75)  # 0 at log2(1 + size) = 0, 1 at 2 of 4
    assert np.isclose(cmd([0, 3, 15], [0, 2, 1], 15, axis="log"), 0.75)  # heights 1, 1, 0
    assert cpr([10, 0], [1, 0], 10) == 0.5  # in any order
    flat = [0.001, *MIB_SHARES[1:]]
    assert np.isclose(cpr(flat, [1.0] * 10), 0.999)


@pytest.mark.parametrize(
    ("sizes", "values", "total", "message"),
    [
        ([1], [1], 1, "at least two sizes"),
        ([0, 1], [1, 1, 1], 1, "a value each"),
        ([0, 1], [1, float("nan")], 1, "NaN"),
        ([0, 2], [0, 1], 1, "sizes from 0 to 2, but everything together has the size 1"),
        ([-1, 1], [0, 1], 1, "sizes from -1"),
    ],
)
def test_areas_of_nothing_are_refused(sizes, values, total, message):
    with pytest.raises(ValueError, match=message):
        cpr(sizes, values, total)
