"""Circuits of nodes against runs by hand, the searches that choose and measure them, and their rows in files."""

import csv
from dataclasses import replace
from io import StringIO

import pytest
import torch

from circuits.component_nodes import component_scores
from circuits.component_rows import Row, to_csv, to_dot
from circuits.component_search import EdgeSearch, NodeSearch, SpanSearch, held_end, measure_search
from circuits.component_states import mean_states
from circuits.components import ComponentError, Components
from circuits.eap import edge_scores
from circuits.held_out import MeasureError
from circuits.metrics import LogitDifference, measure
from circuits.node_circuits import node_circuit_metrics, top
from circuits.peap import span_scores
from circuits.places import Places
from circuits.site_nodes import SiteNodes
from saes.families import find_site
from saes.sites import capture, intervene
from tests.circuits.component_models import component_model, uneven

METRIC = LogitDifference()


def in_spans(examples):
    """Position 0 has no span."""
    starts = torch.tensor([[1, 3, int(n)] for n in examples.ends])
    return replace(examples, places=Places.spans(("a", "b"), starts, examples.clean.shape[1]))


def plain(model):
    return lambda examples: measure(model, METRIC, examples.clean, examples)


@pytest.mark.parametrize(
    ("kind", "nodes"), [("gpt2", "layers"), ("gpt2", "residual"), ("gpt2", "neurons"), ("gemma2 grouped", "heads")]
)
def test_everything_is_the_model_and_nothing_the_counterfactual(kind, nodes):
    model, examples = component_model(kind), uneven()
    made = {
        "heads": lambda: Components.of(model),
        "layers": lambda: Components.of(model, heads=False),
        "residual": lambda: SiteNodes.residual(model),
        "neurons": lambda: SiteNodes.neurons(model),
    }[nodes]()
    shape = (1, len(made.sources), made.width)[: 3 if nodes == "neurons" else 2]
    all_of_it, nothing = (torch.full(shape, value, dtype=torch.bool) for value in (True, False))
    whole, empty = node_circuit_metrics(made, examples, METRIC, [all_of_it, nothing])
    assert torch.equal(whole, plain(made.model)(examples))
    counterfactual = measure(model, METRIC, examples.patch, examples)
    if nodes == "neurons":
        assert not torch.allclose(empty, whole, atol=1e-3)
    else:
        assert torch.allclose(empty, counterfactual, atol=1e-11)


def test_neurons_and_the_stream_outside_are_set_where_they_stand():
    model, examples = component_model("gpt2"), in_spans(uneven())
    for nodes in (SiteNodes.neurons(model), SiteNodes.residual(model)):
        generator = torch.Generator().manual_seed(4)
        shape = (2, len(nodes.sources), nodes.width)[: 3 if nodes.counts[0] == 0 else 2]
        kept = torch.rand(shape, generator=generator) < 0.5
        sites = [find_site(model, name) for name in nodes.sources]
        with torch.no_grad(), capture(model, sites) as far:
            model(input_ids=examples.patch)
        edits = {}
        for source, site in enumerate(sites):
            gone = torch.zeros(far[site].shape, dtype=torch.bool)
            for b, p in (examples.grouped.index >= 0).nonzero().tolist():
                gone[b, p] = ~kept[examples.grouped.index[b, p], source]
            edits[site] = lambda x, g=gone, s=site: torch.where(g, far[s], x)
        with intervene(model, edits):
            expected = plain(model)(examples)
        found = node_circuit_metrics(nodes, examples, METRIC, [kept], batch_size=2)[0]
        assert torch.allclose(found, expected, atol=1e-12)
        assert not torch.allclose(found, plain(model)(examples), atol=1e-3)


def test_a_component_outside_is_at_its_end_point_for_all_readers():
    model, examples = component_model("gpt2"), uneven()
    graph = Components.of(model)
    kept = torch.ones(1, len(graph.sources), dtype=torch.bool)
    kept[0, graph.sources.index("m0")] = False
    mean = mean_states(graph, examples)
    site = find_site(model, "mlp_0")
    with intervene(model, {site: lambda x: mean.mlp[0].expand_as(x)}):
        expected = plain(model)(examples)
    assert torch.allclose(node_circuit_metrics(graph, examples, METRIC, [kept], end="mean")[0], expected, atol=1e-11)


def test_searches_measure_what_they_choose_on_other_examples():
    model, finding, testing = component_model("gpt2"), in_spans(uneven(4)), in_spans(uneven(3, seed=9))
    graph, neurons = Components.of(model, open_attention=True), SiteNodes.neurons(model)
    scores = component_scores(neurons, finding, METRIC, end=held_end(neurons, finding, "mean"))
    end = held_end(graph, finding, "mean")
    searches = [
        NodeSearch(neurons, METRIC, mean_states(neurons, finding), scores, scores.dimensions),
        EdgeSearch(graph, METRIC, end, edge_scores(graph, finding, METRIC, method="eap", end=end)),
        SpanSearch(graph, METRIC, "mean", finding, span_scores(graph, finding, METRIC, end="mean")["sum"]),
    ]
    for search in searches:
        measured = measure_search(search, finding, testing, [5, search.total], model=plain(graph.model), random=1)
        assert set(measured.masks) == {"5", "random 5 0", str(search.total), f"random {search.total} 0"}
        assert measured.ratio(str(search.total)) == pytest.approx(1, abs=1e-9)
        direct = search.metrics(testing, [search.best(5)])[0].numpy()
        assert measured.masks["5"] == pytest.approx(direct)
        rows = search.rows(search.best(5))
        assert [abs(row.effect) for row in rows] == sorted((abs(row.effect) for row in rows), reverse=True)
        assert {row.place for row in rows} <= {"a", "b"}
        with pytest.raises(MeasureError, match="also found the circuit"):
            measure_search(search, finding, finding, [1], model=plain(graph.model))
    layer, neuron = searches[0].rows(searches[0].best(1))[0].node.split("/")
    _, source, dimension = (scores.dimensions.abs() == scores.dimensions.abs().max()).nonzero()[0].tolist()
    assert (layer, int(neuron)) == (f"mlp_hidden_{source}", dimension)
    assert len(searches[1].rows(searches[1].best(7))) == 7


def test_top_takes_the_largest_and_the_first_of_equals():
    scores = torch.tensor([[1.0, -3.0], [2.0, 1.0]])
    assert top(scores, 2).tolist() == [[False, True], [True, False]]
    assert top(scores, 3).tolist() == [[True, True], [True, False]]
    assert top(scores, 1, absolute=False).tolist() == [[False, False], [True, False]]
    assert bool(top(scores, 99).all())
    with pytest.raises(ComponentError, match="-1 nodes"):
        top(scores, -1)
    with pytest.raises(ComponentError, match="NaN"):
        top(scores * float("nan"), 1)


def test_rows_are_read_back_from_csv_and_graphviz():
    rows = [Row("m0", 'the "subject"', -0.5, "a1.h0", "b\\c", "k"), Row("input", "all", 0.25)]
    assert [str(row) for row in rows] == ['m0@the "subject" -> a1.h0<k>@b\\c', "input@all"]
    first, second = csv.DictReader(StringIO(to_csv(rows)))
    assert first["place"] == 'the "subject"' and first["letter"] == "k" and float(first["effect"]) == -0.5
    assert second["reader"] == "" and second["node"] == "input"
    drawn = to_dot(rows, "a title").splitlines()
    assert drawn[0] == 'digraph "a title" {' and drawn[-1] == "}"
    assert '"m0@the \\"subject\\"" -> "a1.h0@b\\\\c"' in drawn[2] and 'label="k"' in drawn[2]
    assert drawn[3].startswith('  "input@all" [label="input@all\\n+0.25"')


def test_circuits_of_another_shape_are_refused():
    model, examples = component_model("gpt2"), uneven()
    for nodes, shape in ((SiteNodes.neurons(model), (1, 2, 63)), (Components.of(model), (1, 7, 16))):
        with pytest.raises(ComponentError, match="a circuit of shape"):
            node_circuit_metrics(nodes, examples, METRIC, [torch.ones(shape, dtype=torch.bool)])
